"""Nobody reaches through a sync where nobody may be, and nobody sees another's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sync_world import SyncWorld

from helpers import failed, ok, places
from mediatheca.settings import Settings
from outside_site import Reply, a_site
from server import Server, Tenant, new_tenant
from store_folders import BUCKET


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may ask nobody on this machine."""
    made = Server(Settings(data_dir=tmp_path_factory.mktemp("fenced"), workers=1, log_level="error"))
    yield made
    made.close()


@pytest.fixture
def enclosed(fenced: Server, s3_endpoint: str) -> Iterator[SyncWorld]:
    made = SyncWorld(fenced, s3_endpoint)
    yield made
    made.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9000", "https://127.0.0.1", "http://169.254.169.254", "https://[::1]", "https://10.0.0.1",
        "http://localhost:8000", "https://[::ffff:127.0.0.1]", "https://0x7f.1", "http://example.org",
    ],
)  # fmt: skip
@pytest.mark.parametrize("tested", [True, False])
def test_an_address_inside_is_refused_before_it_is_stored(enclosed: SyncWorld, endpoint: str, tested: bool) -> None:
    body = enclosed.connection(endpoint_url=endpoint) | {"test_before_save": tested}
    answer = enclosed.client.post("/v1/organizations/connections", json=body)
    assert answer.status_code in (400, 422), answer.text  # 400: a name that does not resolve here
    inline = {"provider": "s3", "connection": body["provider_config"]}
    assert enclosed.client.post(enclosed.path, json=inline).status_code in (400, 422)
    assert ok(enclosed.client.post("/v1/organizations/connections/list"))["results"] == []


def test_an_address_that_was_allowed_once_is_looked_at_again_at_every_connection(enclosed: SyncWorld) -> None:
    """As a name whose address changes after it was checked."""
    services = enclosed.server.app.services
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mediatheca.flows.syncs.connections.check_encrypted", lambda *args: None)
        patch.setattr(services.fetcher, "check", lambda *args: None)
        sync = enclosed.sync(connection_id=_stored(enclosed))
    job = enclosed.run(sync, "failed")
    assert "MEDIATHECA_FETCH_ALLOW" in job["error"]


def _stored(world: SyncWorld) -> str:
    body = world.connection() | {"test_before_save": False}
    return str(ok(world.client.post("/v1/organizations/connections", json=body))["connection_id"])


def test_a_redirect_is_not_followed(world: SyncWorld) -> None:
    with a_site() as inner, a_site() as store:
        store.routes["*"] = Reply(b"", 307, {"location": inner.url})
        body = world.connection(endpoint_url=store.url)
        error = failed(world.client.post("/v1/organizations/connections", json=body), 400)
        assert "307" in error["message"]
        assert inner.asked == []


def test_an_answer_without_end_is_not_kept(world: SyncWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.stores.fetch.storage.MAX_ANSWER", 1000)
    with a_site() as store:
        store.routes["*"] = Reply(b"x" * 2000)
        error = failed(
            world.client.post("/v1/organizations/connections", json=world.connection(endpoint_url=store.url)), 413
        )
    assert "longer" in error["message"]


def test_wrong_credentials_are_refused_and_repeated_nowhere(world: SyncWorld) -> None:
    wrong = {"access_key_id": "test-key", "secret_access_key": "swordfish-4711"}
    body = world.connection(credentials=wrong)
    answer = world.client.post("/v1/organizations/connections", json=body)
    assert "credentials" in failed(answer, 400)["message"]
    assert "swordfish" not in answer.text
    stored = ok(world.client.post("/v1/organizations/connections", json={**body, "test_before_save": False}))
    assert "swordfish" not in str(stored)
    tested = ok(world.client.post(f"/v1/organizations/connections/{stored['connection_id']}/test"))
    assert tested["success"] is False
    sync = world.sync(connection_id=stored["connection_id"])
    job = world.run(sync, "failed")
    assert "credentials" in job["error"]
    events = ok(world.client.get("/v1/events", params={"limit": 1000}))
    everything = [world.get(sync), job, events, ok(world.client.get(f"{world.path}/{sync}/metrics"))]
    assert "swordfish" not in str(everything)
    with world.server.app.services.db.engine.connect() as connection:
        held = connection.exec_driver_sql("SELECT body FROM resources UNION ALL SELECT body FROM sync_jobs")
        assert not [row for row in held if "swordfish" in str(row)]


@pytest.mark.parametrize(
    ("credentials", "place"),
    [
        ({"type": "iam_role", "role_arn": "arn:aws:iam::1:role/swordfish"}, "body.provider_config.credentials"),
        ({"access_key_id": "x", "secret_access_key": ["swordfish"]}, "body.provider_config.credentials"),
        ("swordfish", "body.provider_config.credentials"),
        ({"access_key_id": "swordfish\r\nx-evil: 1", "secret_access_key": "s"}, "body.provider_config.credentials"),
    ],
)
def test_credentials_of_the_wrong_shape_are_not_repeated(world: SyncWorld, credentials: Any, place: str) -> None:
    body = world.connection() | {"provider_config": {"bucket": BUCKET, "credentials": credentials}}
    answer = world.client.post("/v1/organizations/connections", json=body)
    assert any(each.startswith(place) for each in places(failed(answer, 422)))
    assert "swordfish" not in answer.text


def test_unknown_stores_are_named_with_those_that_are_known(world: SyncWorld) -> None:
    for kind in ("google_drive", "box", "x" * 50):
        body = {"name": "x", "provider_type": kind, "provider_config": {}}
        error = failed(world.client.post("/v1/organizations/connections", json=body), 403)
        assert "s3" in error["message"]
        assert "postgresql" in error["message"]
    error = failed(world.client.post(world.path, json={"provider": "mux", "connection": {}}), 403)
    assert "s3" in error["message"]


def test_a_sync_is_seen_in_its_own_namespace_only(world: SyncWorld) -> None:
    sync = world.sync()
    connection = world.get(sync)["connection_id"]
    stranger: Tenant = new_tenant(world.server)
    with stranger.client() as admin:
        space = ok(admin.post("/v1/namespaces", json={"namespace_name": "theirs"}))["namespace_id"]
    with stranger.client(space) as client:
        schema = {"bucket_name": "things", "bucket_schema": {"properties": {"content": {"type": "text"}}}}
        own = ok(client.post("/v1/buckets", json=schema))["bucket_id"]
        for bucket in (world.bucket, own):
            path = f"/v1/buckets/{bucket}/syncs/{sync}"
            failed(client.get(path), 404)
            failed(client.patch(path, json={"description": "mine"}), 404)
            failed(client.delete(path), 404)
            for action in ("trigger", "pause", "resume", "unlock", "jobs", "dlq", "dlq/requeue"):
                failed(client.post(f"{path}/{action}"), 404)
            failed(client.post(f"{path}/dlq/bulk-mark-failed", json={"error_types": ["x"]}), 404)
            failed(client.get(f"{path}/metrics"), 404)
        failed(client.post(f"/v1/buckets/{own}/syncs", json={"connection_id": connection}), 404)
    assert world.get(sync)["paused"] is False


def test_a_sync_is_of_its_bucket_only(world: SyncWorld) -> None:
    sync = world.sync()
    other = world.new_bucket("other")
    failed(world.client.get(f"/v1/buckets/{other}/syncs/{sync}"), 404)
    failed(world.client.post(f"/v1/buckets/{other}/syncs/{sync}/trigger"), 404)


def test_a_reader_changes_nothing(world: SyncWorld) -> None:
    sync = world.sync()
    user = ok(
        world.client.post(
            "/v1/organizations/users", json={"email": "r@example.org", "user_name": "reader", "role": "viewer"}
        )
    )
    made = world.client.post(
        f"/v1/organizations/users/{user['user_id']}/api-keys", json={"name": "reader", "permissions": ["read"]}
    )
    with world.tenant.client(world.namespace, key=ok(made)["key"]) as reader:
        ok(reader.get(f"{world.path}/{sync}"))
        for action in ("trigger", "pause", "resume", "unlock", "dlq/requeue"):
            failed(reader.post(f"{world.path}/{sync}/{action}"), 403)
        failed(reader.delete(f"{world.path}/{sync}"), 403)
        failed(reader.post(world.path, json={"connection_id": "x"}), 403)


def test_an_object_request_names_no_file_of_a_sync(world: SyncWorld) -> None:
    """The names by which a run hands its files over mean nothing to others."""
    world.files.put("a.txt", b"x")
    world.run(world.sync())
    for name in ("sync:0", "file"):
        body = {"blobs": [{"property": "content", "upload_id": name}]}
        failed(world.client.post(f"/v1/buckets/{world.bucket}/objects", json=body), 422)
