"""The generated, strictly parsing classes of the official SDK against a real server: every operation of the groups
that are served, each as data in `sdk_ingest`, `sdk_search`, `sdk_learning`, `sdk_automation`,
`sdk_alerting`, `sdk_media`, `sdk_syncs` and `sdk_vault`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, get_args

import mixpeek.api
import pytest
from compat_served import Served
from mixpeek import Mixpeek
from mixpeek.api_client import ApiClient
from sdk_alerting import ALERTS, TRIGGERS, WEBHOOKS
from sdk_automation import CLUSTERS, TAXONOMIES
from sdk_ingest import ACCOUNT, BATCHES, BUCKETS, NAMESPACES, UPLOADS
from sdk_learning import ANNOTATIONS, EVALUATIONS, PUBLISHING
from sdk_media import MIGRATIONS, TRANSFER, UPLOADED
from sdk_search import COLLECTIONS, DOCUMENTS, HEALTH, RETRIEVERS
from sdk_syncs import SYNCS
from sdk_vault import VAULT
from sdk_world import Call, World

GROUPS: dict[str, dict[str, Call]] = {
    "account": ACCOUNT,
    "vault": VAULT,
    "namespaces": NAMESPACES,
    "buckets": BUCKETS,
    "uploads": UPLOADS,
    "syncs": SYNCS,
    "batches": BATCHES,
    "collections": COLLECTIONS,
    "documents": DOCUMENTS,
    "retrievers": RETRIEVERS,
    "evaluations": EVALUATIONS,
    "annotations": ANNOTATIONS,
    "publishing": PUBLISHING,
    "taxonomies": TAXONOMIES,
    "clusters": CLUSTERS,
    "triggers": TRIGGERS,
    "alerts": ALERTS,
    "webhooks": WEBHOOKS,
    "transfer": TRANSFER,
    "uploaded": UPLOADED,
    "migrations": MIGRATIONS,
    "health": HEALTH,
}

NOT_YET = {
    # folders of Google Drive
    "OrganizationConnectionsApi.list_google_drive_files_organizations_connections",
    "OrganizationConnectionsApi.list_google_drive_folders_organizations_connections",
    # accounting and plans
    "OrganizationsApi.get_credits_organizations",
    "OrganizationUsageApi.get_key_usage_organizations",
    "OrganizationUsageApi.get_key_breakdown_organizations_id_usage_endpoints",
    "OrganizationUsageApi.get_org_usage_organizations",
    # standalone → managed
    "BYODocumentsApi.promote_namespace",
    "BYODocumentsApi.validate_promotion_namespaces_id_promote",
    # documents: access lists, declared schemas
    "CollectionDocumentsApi.update_document_acl",
    "CollectionDocumentsApi.validate_document_schema",
    # templates of what works by itself
    "ClusterTemplatesApi.create_cluster_template_from",
    "ClusterTemplatesApi.get_cluster_template",
    "ClusterTemplatesApi.instantiate_cluster_template",
    "ClusterTemplatesApi.list_cluster_templates",
    "TaxonomyTemplatesApi.create_taxonomy_template_taxonomies_from",
    "TaxonomyTemplatesApi.get_taxonomy_template_taxonomies",
    "TaxonomyTemplatesApi.instantiate_taxonomy_template_taxonomies",
    "TaxonomyTemplatesApi.list_taxonomy_templates_taxonomies",
    # models in the request itself, and ones that need a machine with their framework
    "CustomModelsApi.upload_model_namespaces",
}


def operations(class_name: str) -> set[str]:
    """The operations of a generated class: the methods that have a serializer."""
    api = getattr(mixpeek.api, class_name)
    return {
        f"{class_name}.{name}"
        for name, _ in inspect.getmembers(api, inspect.isfunction)
        if not name.startswith("_") and hasattr(api, f"_{name}_serialize")
    }


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    return World(client, served.url, namespace).build()


def typed(method: Callable[..., Any], name: str, value: Any) -> Any:
    """A request body as the model that the method declares: its unions are only resolved by `from_dict`."""
    annotation = inspect.signature(method).parameters[name].annotation
    models = [annotation, *get_args(annotation), *(a for inner in get_args(annotation) for a in get_args(inner))]
    model = next((m for m in models if hasattr(m, "from_dict")), None)
    return value if model is None or not isinstance(value, dict) else model.from_dict(value)


def perform(generated: ApiClient, world: World, operation: str, call: Call) -> str | None:
    """Run one operation; gives what is wrong with it, None when its answer parsed and holds."""
    class_name, method = operation.split(".")
    bound: Callable[..., Any] = getattr(getattr(mixpeek.api, class_name)(generated), method)
    try:
        given = dict(call.arguments(world))
        headers = given.pop("_headers", {})
        arguments = {name: typed(bound, name, value) for name, value in given.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(GET|POST) .* is deprecated", DeprecationWarning)  # says the client
            answer = bound(**arguments, **({"_headers": headers} if headers else {}))
        return None if call.holds(answer, world) else f"{operation}: unexpected answer {answer!r}"
    except Exception as error:
        return f"{operation}: {type(error).__name__}: {error}"


@pytest.mark.parametrize("group", GROUPS)
def test_every_answer_parses(group: str, generated: ApiClient, world: World) -> None:
    calls = GROUPS[group]
    found = {operation: perform(generated, world, operation, call) for operation, call in calls.items()}
    assert found.keys() == calls.keys()
    wrong = [problem for problem in found.values() if problem]
    assert not wrong, "\n\n".join(wrong)


def test_every_generated_method_of_the_served_groups_is_exercised() -> None:
    calls = [operation for group in GROUPS.values() for operation in group]
    assert len(calls) == len(set(calls))
    classes = {operation.split(".")[0] for operation in [*calls, *NOT_YET]}
    declared = set().union(*(operations(name) for name in classes))
    assert declared - set(calls) == NOT_YET


def test_an_operation_that_is_not_there_yet_says_so(generated: ApiClient, world: World) -> None:
    with pytest.raises(mixpeek.exceptions.NotFoundException) as caught:
        mixpeek.api.ClusterTemplatesApi(generated).list_cluster_templates()
    assert caught.value.data.error.type == "NotFoundError"
