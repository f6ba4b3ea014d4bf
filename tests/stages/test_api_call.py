"""`api_call`: what is sent for a document, what is kept of the answer, and what a failure does."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from outside_world import ReachingStageSuite, Surroundings
from stage_runs import World, ids, told

from mediatheca.kernel.errors import MediathecaError, TooManyRequestsError, ValidationError
from mediatheca.stages.api_call import api_call
from outside_site import Reply, Site


def rows(*skus: Any) -> list[dict[str, Any]]:
    return [{"document_id": f"d{n}", "sku": sku, "score": 1.0 - n / 10} for n, sku in enumerate(skus)]


def call(
    world: Surroundings, site: Site, given: list[dict[str, Any]], *, secrets: Any = None, **more: Any
) -> dict[str, Any]:
    parameters = {"url": f"{site.url}/items/{{{{DOC.sku}}}}", "allowed_domains": ["127.0.0.1"], **more}
    return World(given).run("api_call", parameters, context=world.context(secrets=secrets))


def refused(parameters: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        World([]).run("api_call", parameters)
    return caught.value


def test_the_answer_for_each_document_is_kept_in_a_field(world: Surroundings, site: Site) -> None:
    site.routes["*"] = lambda asked: Reply({"price": len(asked.path)})
    body = call(world, site, rows("a", "bbb"))
    assert [d["api_response"] for d in body["documents"]] == [{"price": 8}, {"price": 10}]
    assert told(body) == {"processed": 2, "skipped": 0, "failed": 0}
    assert body["status"] == "completed"


def test_equal_requests_are_sent_once(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({"ok": True})
    body = call(world, site, rows(*["same"] * 20, "other"))
    assert sorted(site.paths()) == ["/items/other", "/items/same"]
    assert len([d for d in body["documents"] if d["api_response"] == {"ok": True}]) == 21


def test_no_more_than_ten_calls_are_under_way(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({}, delay_s=0.2)
    call(world, site, rows(*range(30)))
    assert len(site.asked) == 30
    assert 2 <= site.busiest <= 10


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("$.data.items[0].name", "first"),
        ("$.data.items[*].name", ["first", "second"]),
        ("$.data.none", None),
        ("$..absent", []),
    ],
)
def test_a_json_path_picks_a_part(world: Surroundings, site: Site, path: str, kept: Any) -> None:
    site.routes["*"] = Reply({"data": {"items": [{"name": "first"}, {"name": "second"}]}})
    body = call(world, site, rows("a"), response_path=path, output_field="metadata.found")
    assert body["documents"][0]["metadata"]["found"] == kept


@pytest.mark.parametrize("path", ["$[", "a" * 600, "$..a..b..c..d", "$[?@.a =~ /(x+)+$/]", "$[?match(@.a, 'x')]", 5])
def test_a_path_that_cannot_be_used_is_refused_when_the_retriever_is_made(path: Any) -> None:
    error = refused({"url": "https://a.example/x", "allowed_domains": ["a.example"], "response_path": path})
    assert "response_path" in error.message


def test_text_is_kept_as_text_and_an_empty_answer_as_nothing(world: Surroundings, site: Site) -> None:
    site.routes["/items/t"] = Reply("grün".encode())
    site.routes["/items/e"] = Reply(status=204)
    body = call(world, site, rows("t", "e"))
    assert [d["api_response"] for d in body["documents"]] == ["grün", None]


def test_a_body_of_templates_is_sent_as_json(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    parameters = {"method": "post", "body": {"sku": "{{DOC.sku}}", "n": "{{DOC.score}}", "q": "{{INPUT.q}}", "k": 1}}
    parameters |= {"headers": {"X-Trace": "{{DOC.document_id}}", "X-Absent": "{{DOC.none}}"}}
    body = World(rows("a")).run(
        "api_call",
        {"url": f"{site.url}/post", "allowed_domains": ["127.0.0.1"], **parameters},
        inputs={"q": "{{SECRET.k}} {{DOC.sku}}"},
        context=world.context(),
    )
    assert body["status"] == "completed", body
    asked = site.asked[0]
    assert asked.method == "POST"
    assert asked.json == {"sku": "a", "n": 1.0, "q": "{{SECRET.k}} {{DOC.sku}}", "k": 1}
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["x-trace"] == "d0"
    assert "x-absent" not in asked.headers


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer"}, "authorization", "Bearer s3cr3t-value"),
        ({"type": "api_key"}, "x-api-key", "s3cr3t-value"),
        ({"type": "api_key", "key": "Api-Token"}, "api-token", "s3cr3t-value"),
        ({"type": "custom_header", "key": "X-Mine"}, "x-mine", "s3cr3t-value"),
        ({"type": "basic", "key": "ann"}, "authorization", f"Basic {base64.b64encode(b'ann:s3cr3t-value').decode()}"),
    ],
)
def test_credentials_come_from_the_vault(
    world: Surroundings, site: Site, auth: dict[str, Any], header: str, value: str
) -> None:
    world.secret("shop-key", "s3cr3t-value")
    site.routes["*"] = lambda asked: Reply({"echo": asked.headers.get(header)})
    body = call(world, site, rows("a"), auth={**auth, "secret_ref": "shop-key"}, secrets=["shop-key"])
    assert site.asked[0].headers[header] == value
    assert "s3cr3t-value" not in str(body), "an echo of the secret is not shown"


def test_a_key_in_the_query_is_added_to_the_others(world: Surroundings, site: Site) -> None:
    world.secret("k", "a&b=c value")
    site.routes["*"] = Reply({})
    call(
        world, site, rows("a"), url=f"{site.url}/x?q={{{{DOC.sku}}}}", secrets=["k"],
        auth={"type": "api_key", "location": "query", "key": "key", "secret_ref": "k"},
    )  # fmt: skip
    assert site.paths() == ["/x?q=a&key=a%26b%3Dc+value"]


def test_the_plan_names_the_secrets_it_needs() -> None:
    world = World([])
    parameters = {
        "url": "https://a.example/{{SECRET.one}}",
        "allowed_domains": ["a.example"],
        "headers": {"x": "{{ secrets['two'] }}"},
        "auth": {"type": "bearer", "secret_ref": "three-3"},
    }
    plan = world.engine.compile([{"stage_id": "given"}, {"stage_id": "api_call", "parameters": parameters}], [])
    assert plan.secrets == {"one", "two", "three-3"}


@pytest.mark.parametrize("template", ["{{SECRET}}", "{{SECRET[INPUT.name]}}", "{{SECRET | tojson}}"])
def test_a_secret_is_read_by_its_name_only(template: str) -> None:
    error = refused({"url": "https://a.example/x", "allowed_domains": ["a.example"], "headers": {"x": template}})
    assert "must name the secret" in error.message


@pytest.mark.parametrize(
    "auth", [{"type": "bearer"}, {"type": "bearer", "value": "sk-written-out"}, {"type": "api_key", "secret_ref": '"'}]
)
def test_credentials_that_are_missing_or_written_out_are_refused(auth: dict[str, Any]) -> None:
    error = refused({"url": "https://a.example/x", "allowed_domains": ["a.example"], "auth": auth})
    assert "auth" in error.message
    assert "sk-written-out" not in error.message


@pytest.mark.parametrize(("policy", "kept"), [("skip", ["d0", "d1", "d2"]), ("remove", ["d0", "d2"])])
def test_a_document_whose_call_fails_stays_or_leaves(
    world: Surroundings, site: Site, policy: str, kept: list[str]
) -> None:
    site.routes["*"] = Reply({"ok": 1})
    site.routes["/items/bad"] = Reply({"error": "no"}, status=500)
    body = call(world, site, rows("a", "bad", "c"), on_error=policy)
    assert ids(body) == kept
    assert told(body)["failed"] == 1
    assert "status 500" in body["warnings"][0]
    assert body["status"] == "completed"
    assert all("api_response" not in d for d in body["documents"] if d["document_id"] == "d1")


def test_raise_fails_the_execution(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply(status=404)
    with pytest.raises(MediathecaError, match="status 404"):
        call(world, site, rows("a", "b"), on_error="raise")


def test_an_execution_in_which_every_call_fails_is_degraded(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply(status=503)
    body = call(world, site, rows("a", "b"))
    assert (body["status"], ids(body)) == ("degraded", ["d0", "d1"])


def test_documents_that_do_not_match_when_are_left_alone(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    body = call(world, site, rows("a", "b"), when={"field": "sku", "operator": "eq", "value": "b"})
    assert site.paths() == ["/items/b"]
    assert told(body) == {"processed": 1, "skipped": 1, "failed": 0}


def test_an_answer_that_is_too_large_or_too_late_is_a_failure(world: Surroundings, site: Site) -> None:
    site.routes["/items/big"] = Reply(b"x" * 5000)
    site.routes["/items/late"] = Reply({}, delay_s=30)
    body = call(world, site, rows("big", "late"), max_response_size=1000, timeout=6)
    errors = [entry["error"] for entry in told(body)["errors"]]
    assert "1000 bytes" in errors[0] or "larger" in errors[0] or "too large" in errors[0].lower(), errors
    assert "within 6 seconds" in errors[1] or "seconds" in errors[1]


def test_a_rate_limit_holds_over_executions(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    call(world, site, rows("a", "b"), rate_limit={"requests_per_minute": 3})
    with pytest.raises(TooManyRequestsError, match="rate_limit"):
        call(world, site, rows("c", "d"), rate_limit={"requests_per_minute": 3}, on_error="raise")
    assert len(site.asked) == 3


def test_single_braces_are_read_as_double_ones_with_a_warning(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    body = call(
        world, site, rows("a"), url=f"{site.url}/items/{{DOC.sku}}", method="POST",
        body='{"q": {DOC.sku}, "x": {"y": "{{DOC.sku}}"}}',
    )  # fmt: skip
    assert site.asked[0].path == "/items/a"
    assert site.asked[0].body == b'{"q": a, "x": {"y": "a"}}'
    assert any("single braces" in warning for warning in body["warnings"])


@pytest.mark.parametrize(
    "url",
    ["{{DOC.url}}", "https://{{INPUT.host}}/x", "https://a.example{{DOC.x}}", "https://{{SECRET.k}}@a.example/",
     "https://a.example:{{DOC.port}}/", "//a.example/", "ftp://a.example/", "https://user:pw@a.example/", "https:///x",
     7],
)  # fmt: skip
def test_no_template_decides_where_a_call_goes(url: Any) -> None:
    assert "url" in refused({"url": url, "allowed_domains": ["a.example"]}).message


@pytest.mark.parametrize(
    "domains", [None, [], ["*"], ["*.com"], ["b.example"], ["https://a.example"], "a.example", [1]]
)
def test_a_list_of_domains_that_says_too_much_or_too_little_is_refused(domains: Any) -> None:
    assert "allowed_domains" in refused({"url": "https://a.example/x", "allowed_domains": domains}).message


def test_a_value_that_leads_upwards_in_the_path_is_not_sent(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    body = call(world, site, rows("../admin", "%2e%2e/admin", "..%252fadmin", "ok"))
    assert site.paths() == ["/items/ok"]
    assert told(body)["failed"] == 3


def test_a_header_value_with_a_line_break_is_not_sent(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply({})
    body = call(world, site, rows("a\r\nX-Evil: 1"), url=f"{site.url}/x", headers={"X-Sku": "{{DOC.sku}}"})
    assert site.asked == []
    assert "line break" in told(body)["errors"][0]["error"]


class TestApiCall(ReachingStageSuite):
    stage = api_call

    @pytest.fixture(autouse=True)
    def _answered(self, site: Site) -> None:
        site.routes["*"] = Reply({"known": True})
        type(self).parameters = {"url": f"{site.url}/x", "allowed_domains": ["127.0.0.1"]}
