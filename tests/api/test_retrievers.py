"""Retrievers as a resource: what is refused when they are made or changed, templates, references, freshness."""

from __future__ import annotations

from typing import Any

import pytest
from documents_world import TEXT, URI, Tenant, World, vector_of

QUERY = {"query": {"type": "string", "required": True}}
SEARCH = {
    "stage_name": "search",
    "stage_id": "feature_search",
    "parameters": {"searches": [{"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}}]},
}
CHEAP = {
    "stage_name": "cheap",
    "stage_id": "attribute_filter",
    "parameters": {"field": "price", "operator": "lt", "value": 2},
}
ASK = {"inputs": {"query": "red rose"}}


class Catalogue:
    """A tenant with documents that refer to each other, and a retriever over them."""

    def __init__(self, tenant: Tenant) -> None:
        self.client = tenant.client
        self.collection = tenant.collection("catalogue", [TEXT])
        self.token = self.write([(f"d{n}", text, n) for n, text in enumerate(["red rose", "red tulip", "blue sea"])])
        self.made = self.make("by text")
        self.path = f"/v1/retrievers/{self.made['retriever_id']}"

    def make(self, name: str, *stages: dict[str, Any], status: int = 200, **more: Any) -> dict[str, Any]:
        body = {
            "retriever_name": name,
            "collection_identifiers": [self.collection],
            "stages": list(stages) or [SEARCH, CHEAP],
            "input_schema": QUERY,
            **more,
        }
        answer = self.client.post("/v1/retrievers", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def write(self, rows: list[tuple[str, str, int]]) -> str:
        documents = [
            {
                "document_id": ident,
                "payload": {"title": text, "price": price, "next": f"d{price + 1}", "home": self.collection},
                "vectors": {TEXT.name: vector_of(text)},
            }
            for ident, text, price in rows
        ]
        body = {"collection_id": self.collection, "documents": documents, "options": {"write_token": True}}
        answer = self.client.post("/v1/namespaces/shop/documents/upsert", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["write_token"])

    def run(self, status: int = 200, **request: Any) -> dict[str, Any]:
        answer = self.client.post(f"{self.path}/execute", json={**ASK, **request})
        assert answer.status_code == status, answer.text
        return answer.json()

    def patch(self, body: Any, status: int = 200) -> dict[str, Any]:
        answer = self.client.patch(self.path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def shop(world: World) -> Catalogue:
    return Catalogue(world.tenant())


def errors(body: dict[str, Any]) -> list[tuple[str, str]]:
    found = body["error"]["details"]["validation_errors"]
    return [(".".join(map(str, e["location"])), e["message"]) for e in found]


# ---- create


NOTHING = {"stage_name": "say", "stage_id": "aggregate",
           "parameters": {"aggregations": [{"function": "count", "alias": "n"}]}}  # fmt: skip


def test_an_explicit_empty_list_is_no_collection_and_none_is_all_of_them(shop: Catalogue):
    listed = shop.make("inference only", NOTHING, collection_identifiers=[], input_schema={})
    every = shop.make("everything", SEARCH, collection_identifiers=None)
    assert listed["collection_identifiers"] == []
    assert every["collection_identifiers"] == [shop.collection]
    path = f"/v1/retrievers/{listed['retriever_id']}"
    body = shop.client.post(f"{path}/execute", json={"inputs": {}}).json()
    assert (body["status"], body["documents"]) == ("completed", [])
    renamed = shop.client.patch(path, json={"description": "on inputs alone"}).json()
    assert renamed["collection_identifiers"] == []
    clone = shop.client.post(f"{path}/clone", json={"retriever_name": "its copy"}).json()
    assert clone["collection_identifiers"] == []


def test_a_search_needs_a_collection(shop: Catalogue):
    found = errors(shop.make("no collection", SEARCH, status=422, collection_identifiers=[]))
    assert "the retriever has no collections" in found[0][1]
    adhoc = {"stages": [SEARCH], "collection_identifiers": [], "inputs": {"query": "x"}}
    answer = shop.client.post("/v1/retrievers/execute", json=adhoc)
    assert answer.status_code == 422
    assert "no collections" in answer.text


def test_keys_that_mean_nothing_inside_parameters_are_refused_with_their_place(shop: Catalogue):
    search = {**SEARCH["parameters"]["searches"][0], "min_scor": 0.5}
    wrong = {**SEARCH, "parameters": {"searches": [search]}}
    (found,) = errors(shop.make("misspelt", wrong, status=422))
    assert found[0].endswith("stages.0.config.parameters.searches.0.min_scor")
    assert "did you mean 'min_score'" in found[1]


def test_a_cache_config_is_checked_against_the_stages(shop: Catalogue):
    found = errors(shop.make("cached", status=422, cache_config={"cache_stage_names": ["serch"]}))
    assert "is not a stage of this retriever" in found[0][1]
    assert "did you mean" in errors(shop.make("cached", status=422, cache_config={"ttl_second": 5}))[0][1]


@pytest.mark.parametrize(
    ("stages", "place", "words"),
    [
        ([{"stage_name": "s", "stage_id": "feature_serch"}],
         "stages.0.config.stage_id", "did you mean 'feature_search'"),
        ([SEARCH, {"stage_name": "cut", "stage_id": "limit", "parameters": {"limit": 0}}],
         "stages.1.config.parameters.limit", "greater than or equal to 1"),
        ([SEARCH, SEARCH], "stages.1.stage_name", "used twice"),
        ([{"stage_id": "feature_search",
           "parameters": {"searches": [{"feature_uri": "mixpeek://no@v1/such", "query": "x"}]}}],
         "stages.0.config.parameters.searches.0.feature_uri", "such"),
        ([{**SEARCH, "parameters": {**SEARCH["parameters"], "collection_identifiers": ["elsewhere"]}}],
         "stages.0.config.parameters.collection_identifiers", "elsewhere"),
        ([SEARCH, {"stage_id": "attribute_filter", "parameters": {"field": "a", "value": "{{INPUT.qery}}"}}],
         "stages.1.config.parameters", "did you mean 'query'"),
        ([{**SEARCH, "pre_filters": {"field": "a", "operator": "equals_to", "value": 1}}],
         "stages.0.config.pre_filters.operator", "equals_to"),
        ([{**SEARCH, "on_error": "ignore"}], "stages.0.on_error", "error or skip"),
        ([SEARCH] * 101, "stages", "at most 100"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_place_of_the_stage(shop: Catalogue, stages, place, words):
    found = errors(shop.make("wrong", *stages, status=422))
    assert any(where.endswith(place) or f"{place}." in f"{where}." for where, _ in found), found
    assert any(words in message for _, message in found), found


def test_keys_that_mean_nothing_are_told_with_what_was_meant(shop: Catalogue):
    stage = {**CHEAP, "on_eror": "skip", "config": {"parameters": CHEAP["parameters"], "stage_id": "attribute_filter",
             "post_filter": {}}}  # fmt: skip
    made = shop.make("typos", SEARCH, stage, colour="red", cache_confg={})
    told = " ".join(made["warnings"])
    for words in ("did you mean 'on_error'", "did you mean 'post_filters'", "colour", "did you mean 'cache_config'"):
        assert words in told


def test_a_stage_that_gets_no_documents_is_a_warning(shop: Catalogue):
    made = shop.make("odd", {"stage_name": "cut", "stage_id": "limit"}, SEARCH)
    assert "comes first" in " ".join(made["warnings"])


@pytest.mark.parametrize("limits", [{"max_credits": -1}, {"max_time_ms": "soon"}, {"max_llm_tokens": 1.5}, 7])
def test_budgets_are_checked(shop: Catalogue, limits):
    shop.make("budget", budget_limits=limits, status=422)


def test_a_budget_in_an_older_spelling_counts(shop: Catalogue):
    assert shop.make("older", budget_limits={"max_execution_time_ms": 500})["budget_limits"] == {"max_time_ms": 500}


def test_a_name_is_used_once(shop: Catalogue):
    shop.make("by text", status=409)


@pytest.mark.parametrize("category", ["filter", "sort", "reduce", "group", "apply", "enrich"])
def test_stages_are_listed_by_category(shop: Catalogue, category):
    found = shop.client.get("/v1/retrievers/stages", params={"category": category}).json()
    wire = "reduce" if category == "group" else category
    assert found
    assert {entry["category"] for entry in found} == {wire}
    if category == "reduce":
        assert {"group_by", "limit"} <= {entry["stage_id"] for entry in found}


# ---- bombs


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {"AND": [leaf]}
    return leaf


POWER = "{{ 9 ** 9 ** 9 ** 9 }}"
BOMBS: dict[str, dict[str, Any]] = {
    "deep filter": {"conditions": nested(300, {"field": "a", "value": 1})},
    "wide filter": {"conditions": {"OR": [{"field": f"f{n}", "value": n} for n in range(3000)]}},
    "many values": {"conditions": {"field": "a", "operator": "in", "value": list(range(100_000))}},
    "catastrophic regex": {"field": "title", "operator": "regex", "value": "(a+)+" * 3000 + "$"},
    "long template": {"field": "a", "value": "{{ INPUT.query }}" + "x" * 300_000},
    "many templates": {
        "conditions": {"OR": [{"field": "a", "value": f"{{{{ INPUT.query ~ {n} }}}}"} for n in range(5000)]}
    },
    "many unknown keys": {"field": "a", "value": 1, **{f"key{n}": n for n in range(30_000)}},
    "template of loops": {"field": "a", "value": "{% for a in range(9) %}" * 2000 + "{% endfor %}" * 2000},
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", BOMBS)
def test_what_would_take_long_is_refused_at_once(shop: Catalogue, name):
    stage = {"stage_name": "bomb", "stage_id": "attribute_filter", "parameters": BOMBS[name]}
    for path, extra in (("/v1/retrievers", {"retriever_name": "bomb"}), ("/v1/retrievers/execute", ASK)):
        body = {"stages": [SEARCH, stage], "collection_identifiers": [shop.collection], "input_schema": QUERY, **extra}
        answer = shop.client.post(path, json=body)
        assert 400 <= answer.status_code < 500, answer.text[:300]


@pytest.mark.timeout(120)
def test_a_template_that_makes_a_huge_number_is_never_worked_out(shop: Catalogue):
    stage = {"stage_name": "bomb", "stage_id": "attribute_filter", "parameters": {"field": "a", "value": POWER}}
    body = {"stages": [SEARCH, stage], "collection_identifiers": [shop.collection], "input_schema": QUERY}
    shop.make("power", *body["stages"])
    refused = shop.client.post("/v1/retrievers/execute", json={**body, **ASK})
    assert refused.status_code == 422, refused.text
    assert "exponents" in refused.text


@pytest.mark.timeout(120)
def test_a_regex_that_backtracks_does_not_hold_the_server_up(shop: Catalogue):
    shop.write([("long", "a" * 60 + "!", 0)])
    found = shop.client.post(f"{shop.path}/execute", json={**ASK, "filters": {"title": {"regex": "(a+)+$"}}})
    assert found.status_code in (200, 422), found.text


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "request_",
    [
        {"filters": nested(300, {"field": "a", "value": 1})},
        {"inputs": {"query": "red", "deep": nested(200, 1)}},
        {"settings": nested(200, 1)},
        {"sort": [{"field": f"f{n}"} for n in range(5000)]},
        {"select": ["a" * 100] * 5000},
        {"pagination": {"after": nested(200, 1)}},
    ],
    ids=["filters", "inputs", "settings", "sort", "select", "after"],
)
def test_a_hostile_request_gets_an_answer_and_no_fault(shop: Catalogue, request_):
    answer = shop.client.post(f"{shop.path}/execute", json={**ASK, **request_})
    assert answer.status_code < 500, answer.text[:300]


# ---- patch


def test_what_describes_a_retriever_changes_freely_and_counts_a_version(shop: Catalogue):
    sent = {"description": "new", "tags": ["a"], "metadata": {"k": 1}, "visibility": "public", "optimize": "strict"}
    changed = shop.patch({"retriever_name": "renamed", **sent})
    assert {name: changed[name] for name in sent} == sent
    assert (changed["retriever_name"], changed["version"]) == ("renamed", 2)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "empty"),
        ({"budget_limits": {"max_credits": 5}}, 422, "cannot change"),
        ({"input_schema": {}}, 422, "cannot be removed"),
        ({"input_schema": {"query": {"type": "integer", "required": True}}}, 422, "cannot change its type"),
        ({"input_schema": {**QUERY, "more": {"type": "string", "required": True}}}, 422, "cannot become required"),
        ({"stages": []}, 422, "stages"),
        ({"stages": [{"stage_id": "limt"}]}, 422, "did you mean 'limit'"),
        ({"collection_identifiers": ["nowhere"]}, 404, "nowhere"),
        ({"visibility": "secret"}, 422, "visibility"),
        ({"optimize": "most"}, 422, "optimize"),
    ],
)
def test_what_would_break_callers_is_refused(shop: Catalogue, body, status, words):
    assert words in str(shop.patch(body, status))
    assert shop.client.get(shop.path).json()["version"] == 1


def test_an_input_may_gain_a_default_and_an_optional_one_may_come(shop: Catalogue):
    schema = {"query": {"type": "string", "default": "red rose"}, "more": {"type": "string", "examples": ["x"]}}
    shop.patch({"input_schema": schema})
    assert shop.run(inputs={})["interpretation"]["inferred_inputs"] == {"query": "red rose"}


def test_collections_are_checked_against_the_features_again(shop: Catalogue):
    bare = shop.client.post("/v1/collections", json={"collection_name": "bare"})
    if bare.status_code == 200:
        assert "stages.0" in str(shop.patch({"collection_identifiers": [bare.json()["collection_id"]]}, 422))


# ---- optimiser


def test_a_deleted_collection_costs_its_own_documents_only(world: World):
    tenant = world.tenant()
    kept, gone = Catalogue(tenant), tenant.collection("second", [TEXT])
    both = kept.make("both", collection_identifiers=[kept.collection, gone])
    path = f"/v1/retrievers/{both['retriever_id']}"
    assert kept.client.delete(f"/v1/collections/{gone}").status_code == 200
    answer = kept.client.post(f"{path}/execute", json=ASK).json()
    assert answer["documents"]
    assert answer["status"] == "degraded"
    told = answer["degraded"][0]
    assert (told["resource"], told["id"]) == ("collection", gone)
    assert "collection_identifiers" in told["next_step"]
    assert kept.client.delete(f"/v1/collections/{kept.collection}").status_code == 200
    refused = kept.client.post(f"{path}/execute", json=ASK)
    assert refused.status_code == 404
    assert "retriever 'both' were deleted" in refused.json()["error"]["message"]


def test_the_level_of_a_retriever_counts_and_a_request_may_choose_another(shop: Catalogue):
    found = shop.run()
    assert found["optimization_summary"]["rules_applied"] == ["push_down_filters"]
    assert "optimization_summary" not in shop.run(optimize="off")
    shop.patch({"optimize": "off"})
    assert shop.run()["optimization_applied"] is False
    assert shop.run(optimize="semantic")["optimization_applied"] is True


def test_explain_tells_what_is_rewritten_and_why(shop: Catalogue):
    found = shop.client.post(f"{shop.path}/execute/explain").json()
    assert (found["optimization_applied"], found["optimization_level"]) == (True, "advanced")
    made = found["optimization_details"]["decisions"][0]
    assert (made["rule_type"], made["stage"], made["into"]) == ("push_down_filters", "cheap", "search")
    assert "push_down_filters" in found["execution_plan"][1]["optimization_notes"][0]


# ---- references and freshness


def test_references_are_resolved_in_the_own_namespace_only(world: World, shop: Catalogue):
    stranger = Catalogue(world.tenant())
    stranger.write([("secret", "red rose", 7)])
    shop.write([("d9", "red rose", 8)])
    found = shop.run(expand=["next", "home"], optimize="off")["documents"]
    first = next(item for item in found if item["document_id"] == "d0")["_expanded"]
    assert first["next"]["title"] == "red tulip"
    assert first["home"]["collection_name"] == "catalogue"
    shop.write([("d0", "red rose", 0)])
    answer = shop.client.patch(
        f"/v1/collections/{shop.collection}/documents/d0", json={"next": "secret", "home": stranger.collection}
    )
    assert answer.status_code == 200, answer.text
    found = shop.run(expand=["next", "home"])
    first = next(item for item in found["documents"] if item["document_id"] == "d0")["_expanded"]
    assert first == {"next": None, "home": None}
    assert "not resolved" in " ".join(found["warnings"])


def test_a_token_reads_what_was_written(shop: Catalogue):
    token = shop.write([("fresh", "red rose red rose", 1)])
    found = shop.run(write_token=token)
    assert (found["consistency_mode"], found["status"]) == ("strong", "completed")
    assert "fresh" in [item["document_id"] for item in found["documents"]]
    assert shop.run(consistency={"mode": "strong"})["consistency_mode"] == "strong"


def test_a_token_from_the_future_degrades_and_a_broken_one_is_refused(shop: Catalogue):
    assert shop.run(write_token=f"{shop.collection}:999999")["status"] == "degraded"
    shop.run(write_token="nonsense", status=422)


# ---- templates


@pytest.fixture
def template(shop: Catalogue) -> dict[str, Any]:
    body = {"template_name": "by text", "category": "search", "tags": ["a", "b"]}
    answer = shop.client.post(f"/v1/templates/retrievers/from-retriever/{shop.made['retriever_id']}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_template_makes_a_retriever_that_runs(shop: Catalogue, template):
    assert (template["template_type"], template["scope"]) == ("retriever", "organization")
    assert template["source_resource_id"] == shop.made["retriever_id"]
    assert "collection" not in " ".join(template["configuration"])
    path = f"/v1/templates/retrievers/{template['template_id']}/instantiate"
    body = {"retriever_name": "again", "collection_identifiers": ["catalogue"], "tags": ["x"]}
    made = shop.client.post(path, json=body)
    assert made.status_code == 200, made.text
    assert (made.json()["status"], made.json()["template_id"]) == ("created", template["template_id"])
    shop.path = f"/v1/retrievers/{made.json()['retriever_id']}"
    assert shop.client.get(shop.path).json()["tags"] == ["x"]
    assert shop.run()["documents"]
    assert shop.client.post(path, json=body).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"retriever_name": "x"}, 422),
        ({"retriever_name": "x", "collection_identifiers": []}, 422),
        ({"retriever_name": "x", "collection_identifiers": ["nowhere"]}, 404),
        ({"collection_identifiers": ["catalogue"]}, 422),
    ],
)
def test_an_instance_is_checked_as_every_retriever_is(shop: Catalogue, template, body, status):
    path = f"/v1/templates/retrievers/{template['template_id']}/instantiate"
    assert shop.client.post(path, json=body).status_code == status


def test_templates_are_listed_filtered_read_and_deleted(shop: Catalogue, template):
    def listed(**body: Any) -> list[str]:
        answer = shop.client.post("/v1/templates/retrievers", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["total_count"] == len(answer.json()["results"])
        return [entry["template_id"] for entry in answer.json()["results"]]

    ident = template["template_id"]
    for wanted in ({}, {"category": "search"}, {"tags": ["a", "b"]}, {"scope": "organization"}, {"search": "by te"}):
        assert listed(**wanted) == [ident]
    for other in ({"category": "no"}, {"tags": ["a", "c"]}, {"scope": "user"}, {"is_active": False}):
        assert listed(**other) == []
    path = f"/v1/templates/retrievers/{ident}"
    assert shop.client.get(path).json()["configuration"]["stages"]
    assert shop.client.delete(path).status_code == 200
    assert shop.client.get(path).status_code == 404
    assert shop.client.delete(path).status_code == 404


def test_a_template_outlives_its_retriever(shop: Catalogue, template):
    assert shop.client.delete(shop.path).status_code == 200
    path = f"/v1/templates/retrievers/{template['template_id']}/instantiate"
    body = {"retriever_name": "again", "collection_identifiers": [shop.collection]}
    assert shop.client.post(path, json=body).status_code == 200


def test_another_organization_finds_no_template(world: World, template):
    stranger = world.tenant().client
    path = f"/v1/templates/retrievers/{template['template_id']}"
    assert stranger.get(path).status_code == 404
    assert stranger.delete(path).status_code == 404
    assert stranger.post("/v1/templates/retrievers", json={}).json()["results"] == []
    body = {"retriever_name": "x", "collection_identifiers": ["catalogue"]}
    assert stranger.post(f"{path}/instantiate", json=body).status_code == 404


@pytest.mark.parametrize("body", [{}, {"template_name": ""}, {"template_name": "x", "scope": "system"},
                                  {"template_name": "x", "is_public": True}, {"template_name": "tmpl_x"}])  # fmt: skip
def test_what_is_no_template_is_refused(shop: Catalogue, body):
    path = f"/v1/templates/retrievers/from-retriever/{shop.made['retriever_id']}"
    assert shop.client.post(path, json=body).status_code == 422
