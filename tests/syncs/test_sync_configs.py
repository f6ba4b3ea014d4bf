"""What a caller may ask of a sync, in both forms, and what is refused with the next step."""

from __future__ import annotations

from typing import Any

import pytest
from sync_world import SyncWorld

from helpers import failed, ok, places
from s3_server import KEY, SECRET
from store_folders import BUCKET

FILE = {"source": {"type": "file"}}


def test_the_older_form_makes_a_private_connection(world: SyncWorld) -> None:
    """The request of the reference's guide, with the address of the test's own store."""
    world.files.put("videos.txt", b"x")
    connection = {
        "bucket_name": BUCKET,
        "region": "us-east-1",
        "credentials": {"access_key_id": KEY, "secret_access_key": SECRET},
        "endpoint_url": world.files.endpoint,
    }
    settings = {"source_path": f"/{world.files.folder}/", "sync_mode": "incremental", "polling_interval": 3600}
    made = ok(world.client.post(world.path, json={"provider": "s3", "connection": connection, "sync_config": settings}))
    assert "warnings" not in made
    assert (made["sync_mode"], made["polling_interval_seconds"]) == ("continuous", 3600)
    assert (made["source_type"], made["status"], made["sync_id"]) == ("s3", "PENDING", made["sync_config_id"])
    assert SECRET not in str(made)
    world.run(made["sync_config_id"])
    own = ok(world.client.get(f"/v1/organizations/connections/{made['connection_id']}"))
    assert own["provider_config"]["credentials"]["secret_access_key"] == "********"
    assert own["provider_config"]["bucket"] == BUCKET
    other = {"connection_id": made["connection_id"], "source_path": "x"}
    failed(world.client.post(world.path, json=other), 404)  # it is the sync's own
    ok(world.client.delete(f"{world.path}/{made['sync_config_id']}"))
    failed(world.client.get(f"/v1/organizations/connections/{made['connection_id']}"), 404)


def test_the_older_form_verbatim_asks_nobody_until_it_runs(world: SyncWorld) -> None:
    body = {
        "provider": "s3",
        "connection": {
            "bucket_name": "my-source-bucket",
            "region": "us-east-1",
            "credentials": {"access_key_id": "AKIA...", "secret_access_key": "..."},
        },
        "sync_config": {"source_path": "/videos/", "sync_mode": "incremental", "polling_interval": 3600},
    }
    made = ok(world.client.post(world.path, json=body))
    assert made["source_path"] == "/videos/"
    assert made["next_sync_at"]


def test_the_steps_of_the_wizard(world: SyncWorld) -> None:
    """Its requests, with the address and the key of the test's own store."""
    world.files.put("a.txt", b"x")
    config = {"bucket": BUCKET, "region": "us-east-1", "prefix": "", **world.files.config}
    body = {
        "name": "s3-source",
        "provider_type": "s3",
        "provider_config": {**config, "credentials": world.files.credentials},
        "test_before_save": True,
    }
    connection = ok(world.client.post("/v1/organizations/connections", json=body))
    assert connection["provider_type"] == "s3"
    wish = {
        "connection_id": connection["connection_id"],
        "source_path": f"{world.files.folder}/",
        "sync_mode": "continuous",
        "polling_interval_seconds": 3600,
    }
    sync = ok(world.client.post(world.path, json=wish))["sync_config_id"]
    listed = ok(world.client.post(f"{world.path}/list"))
    assert [each["sync_config_id"] for each in listed["results"]] == [sync]
    assert listed["total"] == 1
    assert world.run(sync)["files_synced"] == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"ingest_filter": {"retriever_id": "ret_x"}}, "body.ingest_filter"),
        ({"provider_filters": {"media_type": "video"}}, "body.provider_filters"),
        ({"file_filters": {"metadata_filters": [{"field": "x"}]}}, "body.file_filters.metadata_filters"),
        ({"file_filters": {"include": ["*.mp4"]}}, "body.file_filters.include"),
        ({"file_filters": {"include_patterns": ["[z-a]"]}}, "body.file_filters.include_patterns"),
        ({"file_filters": {"include_patterns": ["*"] * 101}}, "body.file_filters.include_patterns"),
        ({"reconcile": {"re_extract_fields": ["title"]}}, "body.reconcile.re_extract_fields"),
        ({"reconcile": {"on_delet": True}}, "body.reconcile.on_delet"),
        ({"schema_mapping": {}}, "body.schema_mapping.mappings"),
        ({"sync_mode": "sometimes"}, "body.sync_mode"),
        ({"polling_interval_seconds": 29}, "body.polling_interval_seconds"),
        ({"polling_interval_seconds": 86401}, "body.polling_interval_seconds"),
        ({"batch_size": 101}, "body.batch_size"),
        ({"max_objects_per_run": 0}, "body.max_objects_per_run"),
        ({"source_path": "s3://another-bucket/x"}, "body.source_path"),
        ({"source_path": "a\x00b"}, "body.source_path"),
        ({"provider": "s3"}, "body.connection_id"),
        ({"sync_config": {"interval": 5}}, "body.sync_config.interval"),
    ],
)
def test_what_would_silently_do_nothing_is_refused(world: SyncWorld, body: dict[str, Any], place: str) -> None:
    given = {"connection_id": world.connect(), "source_path": "films", **body}
    error = failed(world.client.post(world.path, json=given), 422)
    assert any(each.startswith(place) for each in places(error)), error
    assert ok(world.client.post(f"{world.path}/list"))["results"] == []


def _mapping(name: str, **entry: Any) -> dict[str, Any]:
    return {"content": FILE, name: entry}


@pytest.mark.parametrize(
    ("mappings", "told"),
    [
        (_mapping("topic", source={"type": "column", "name": "x"}), "object stores have none"),
        (_mapping("topic", source={"type": "drive_property", "key": "x"}), "object stores have none"),
        (_mapping("topic", source={"type": "filename_regex", "pattern": "no group"}), "exactly one group"),
        (_mapping("topic", source={"type": "filename_regex", "pattern": "(?=x)(y)"}), "RE2"),
        (_mapping("topic", source={"type": "file"}, target_type="field"), "goes into a blob"),
        (_mapping("topic", source={"type": "magic"}), "magic"),
        (_mapping("topic", source={"type": "tag"}), "key"),
        (_mapping("topic", source={"type": "tag", "key": "x"}, transform="reverse"), "transform"),
        (_mapping("nothing", source={"type": "file"}, blob_property="nowhere"), "not a property"),
        ({"content": {"source": {"type": "file"}, "mime_type_override": "text"}}, "mime_type_override"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(world: SyncWorld, mappings: dict[str, Any], told: str) -> None:
    body = {"connection_id": world.connect(), "schema_mapping": {"mappings": mappings}}
    error = failed(world.client.post(world.path, json=body), 422)
    assert told in str(error)


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"title": {"type": "string"}}, "no property of the bucket takes files"),
        ({"a": {"type": "image"}, "b": {"type": "image"}}, "several properties"),
    ],
)
def test_without_a_mapping_it_must_be_clear_where_files_go(
    world: SyncWorld, properties: dict[str, Any], told: str
) -> None:
    world.bucket = world.new_bucket("unclear", {"properties": properties})
    error = failed(world.client.post(world.path, json={"connection_id": world.connect()}), 422)
    assert told in error["message"]


def test_files_go_where_their_type_belongs(world: SyncWorld) -> None:
    schema = {"properties": {"photo": {"type": "image"}, "text": {"type": "text"}, "rest": {"type": "file"}}}
    world.bucket = world.new_bucket("typed", schema)
    world.files.put("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "application/octet-stream")
    world.files.put("b.txt", b"words", "text/plain; charset=utf-8")
    world.files.put("c.bin", bytes(range(200)))
    world.run(world.sync())
    found = {name: each["blobs"][0]["property"] for name, each in world.objects().items()}
    assert found == {"a.png": "photo", "b.txt": "text", "c.bin": "rest"}


def test_fields_come_from_names_folders_tags_metadata_and_constants(world: SyncWorld) -> None:
    world.files.put("2026/Sea/film_0042.txt", b"x", metadata={"Author": " Ada "}, tags={"info": '{"depth": 7}'})
    mapping = {
        "content": FILE,
        "n": {
            "source": {"type": "filename_regex", "pattern": r"_0*(\d+)"},
            "transform": "json_parse",
            "target_type": "field",
        },
        "topic": {"source": {"type": "folder_path"}, "transform": "lowercase"},
        "year": {"source": {"type": "folder_path", "segment": 0}},
        "folders": {"source": {"type": "folder_path", "full_path": True}},
        "author": {"source": {"type": "metadata", "key": "AUTHOR"}, "transform": "trim"},
        "info": {"source": {"type": "tag", "key": "info"}, "transform": "json_parse"},
        "origin": {"source": {"type": "constant", "value": {"store": 1}}},
        "code": {"source": {"type": "filename_regex", "pattern": "(zzz)", "default": "none"}},
        "absent": {"source": {"type": "tag", "key": "absent"}},
    }
    sync = world.sync(schema_mapping={"mappings": mapping})
    world.run(sync)
    (found,) = world.objects().values()
    wanted = {
        "n": 42, "topic": "sea", "year": "2026", "folders": "2026/Sea", "author": "Ada", "info": {"depth": 7},
        "origin": {"store": 1}, "code": "none",
    }  # fmt: skip
    assert {name: found.get(name) for name in wanted} == wanted
    assert "absent" not in found
    assert world.get(sync)["schema_mapping"]["mappings"]["content"]["target_type"] == "blob"


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        ({"include_patterns": ["*.txt"]}, {"a.txt", "new/c.txt", "new/d-1.txt"}),
        ({"include_patterns": ["new/*"]}, {"new/c.txt", "new/d-1.txt", "new/e.md"}),
        ({"include_patterns": ["*/e.md", "a.*"]}, {"a.txt", "new/e.md"}),
        ({"include_patterns": ["d-[0-9].txt", "[!a-y]*"]}, {"new/d-1.txt"}),
        ({"exclude_patterns": ["new/*", "?.txt"]}, {"b.MD"}),
        ({"extensions": ["md", ".TXT"]}, {"a.txt", "b.MD", "new/c.txt", "new/d-1.txt", "new/e.md"}),
        ({"extensions": ["md"]}, {"b.MD", "new/e.md"}),
        ({"min_size_bytes": 2, "max_size_bytes": 2}, {"b.MD"}),
        ({"mime_types": ["text/plain"]}, {"a.txt", "new/c.txt", "new/d-1.txt"}),
        ({"mime_types": ["image/*"]}, set()),
        ({"modified_after": "2099-01-01T00:00:00Z"}, set()),
        ({"modified_before": "2099-01-01T00:00:00", "modified_after": "2020-01-01"}, None),
    ],
)
def test_filters_choose_the_files(world: SyncWorld, filters: dict[str, Any], taken: set[str] | None) -> None:
    sizes = {"a.txt": 1, "b.MD": 2, "new/c.txt": 3, "new/d-1.txt": 4, "new/e.md": 5}
    for name, size in sizes.items():
        world.files.put(name, name.encode()[:1] * size)
    world.run(world.sync(file_filters=filters, skip_duplicates=False))
    prefix = f"{world.files.folder}/"
    found = {each["source_path"].removeprefix(prefix) for each in world.objects().values()}
    assert found == (set(sizes) if taken is None else taken)


def test_a_prefix_of_the_provider_narrows_the_folder(world: SyncWorld) -> None:
    for name in ("videos/a.txt", "other/b.txt"):
        world.files.put(name, name.encode())
    world.run(world.sync(provider_filters={"prefix": "videos/"}))
    assert list(world.objects()) == ["a.txt"]


def test_a_change_keeps_what_it_does_not_name(world: SyncWorld) -> None:
    sync = world.sync(description="films", batch_size=7, reconcile={"on_delete": False})
    patch = {"polling_interval_seconds": 60, "metadata": {"a": 1}, "is_active": False, "colour": "red"}
    changed = ok(world.client.patch(f"{world.path}/{sync}", json=patch))
    assert (changed["batch_size"], changed["description"]) == (7, "films")
    assert changed["reconcile"]["on_delete"] is False
    assert (changed["polling_interval_seconds"], changed["metadata"], changed["paused"]) == (60, {"a": 1}, True)
    assert changed["warnings"] == ["colour: unknown key is ignored"]
    assert ok(world.client.patch(f"{world.path}/{sync}", json={"status": "ACTIVE"}))["is_active"] is True
    failed(world.client.patch(f"{world.path}/{sync}", json={"status": "COMPLETED"}), 422)
    failed(world.client.patch(f"{world.path}/{sync}", json={"source_path": "s3://elsewhere/x"}), 422)


def test_lists_are_narrowed(world: SyncWorld) -> None:
    first, second = world.sync(), world.sync()
    ok(world.client.post(f"{world.path}/{second}/pause"))

    def ids(**body: Any) -> list[str]:
        return [each["sync_config_id"] for each in ok(world.client.post(f"{world.path}/list", json=body))["results"]]

    assert ids() == [second, first]
    assert ids(is_active=True) == [first]
    assert ids(status="SUSPENDED") == [second]
    assert ids(connection_id=world.get(first)["connection_id"]) == [first]
    assert ids(limit=1) == [second]
    failed(world.client.post(f"{world.path}/list", json={"status": ["x"]}), 422)


def test_a_connection_in_use_is_kept_unless_forced(world: SyncWorld) -> None:
    sync = world.sync()
    path = f"/v1/organizations/connections/{world.get(sync)['connection_id']}"
    error = failed(world.client.delete(path), 409)
    assert error["details"]["sync_config_ids"] == [sync]
    ok(world.client.delete(f"{path}?force=true"))
    failed(world.client.post(f"{world.path}/{sync}/trigger"), 404)


def test_relatives_of_s3_are_kept_as_what_they_were_declared(world: SyncWorld) -> None:
    body = world.connection() | {"provider_type": "r2", "metadata": {"team": "films"}}
    made = ok(world.client.post("/v1/organizations/connections", json=body))
    assert (made["provider_type"], made["metadata"]) == ("s3", {"team": "films", "declared_provider": "r2"})


def test_a_connection_keeps_its_credentials_when_only_the_rest_changes(world: SyncWorld) -> None:
    ident = world.connect()
    config = {**world.files.config, "bucket": BUCKET, "prefix": world.files.folder}
    changed = ok(world.client.patch(f"/v1/organizations/connections/{ident}", json={"provider_config": config}))
    assert changed["provider_config"]["prefix"] == world.files.folder
    assert ok(world.client.post(f"/v1/organizations/connections/{ident}/test"))["success"] is True
    world.files.put("a.txt", b"x")
    assert world.run(world.sync(connection_id=ident, source_path=""))["files_synced"] == 1


def test_credentials_may_be_secrets_by_name(world: SyncWorld) -> None:
    ok(world.client.post("/v1/organizations/secrets", json={"secret_name": "store_key", "secret_value": SECRET}))
    credentials = {"access_key_id": KEY, "secret_access_key": "{{secrets.store_key}}"}
    world.files.put("a.txt", b"x")
    sync = world.sync(connection_id=world.connect(credentials=credentials))
    assert world.run(sync)["files_synced"] == 1
    bad = world.connection(credentials={"access_key_id": KEY, "secret_access_key": "{{INPUT.x}}"})
    error = failed(world.client.post("/v1/organizations/connections", json=bad), 422)
    assert places(error) == {"body.provider_config.credentials.secret_access_key"}
