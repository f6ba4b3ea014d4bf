"""Syncs over PostgreSQL, the migration that brings their tables, and typed clients that read real rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mixpeek.models.storage_connection_model import StorageConnectionModel
from mixpeek.models.sync_configuration_model import SyncConfigurationModel
from mixpeek.models.sync_dead_letter_object_model import SyncDeadLetterObjectModel
from mixpeek.models.sync_job_model import SyncJobModel
from mixpeek.models.sync_metrics_response import SyncMetricsResponse
from sqlalchemy import inspect, text
from sync_world import SyncWorld

from helpers import ok, wait_for
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import metadata
from server import Server

_NEW = ("sync_jobs", "sync_items", "sync_failures")


@pytest.fixture
def on_postgresql(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For one test alone: the others empty the database, and its threads would be at work in it."""
    database = Database(postgres_url)
    database.migrate()
    with database.system() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    database.close()
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("pg"), database_url=postgres_url, workers=1, fetch_allow="127.0.0.1/32",
        log_level="error",
    )  # fmt: skip
    made = Server(settings)
    yield made
    made.close()


def test_a_sync_over_postgresql_takes_changes_and_removes(on_postgresql: Server, s3_endpoint: str) -> None:
    world = SyncWorld(on_postgresql, s3_endpoint)
    try:
        world.collection()
        for number in range(30):
            world.files.put(f"{number:02}.txt", f"text {number}".encode())
        sync = world.sync(batch_size=7, batch_chunk_size=10, reconcile={})
        job = world.run(sync)
        assert (job["files_synced"], len(job["batch_ids"])) == (30, 3)
        world.files.put("03.txt", b"changed")
        world.files.delete("04.txt")
        job = world.run(sync)
        assert (job["progress"]["updated"], job["progress"]["deleted"], job["files_verified"]) == (1, 1, 28)
        assert len(world.objects()) == 29
        assert world.content("03.txt") == b"changed"
        world.make_due(sync)
        wait_for(lambda: world.get(sync)["sync_run_counter"] == 3)
        ok(world.client.delete(f"{world.path}/{sync}"))
    finally:
        world.close()


def test_an_older_schema_gets_the_tables(db: Database) -> None:
    with db.system() as connection:
        for name in _NEW:
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0005'"))
    db.migrate()
    with db.engine.connect() as connection, connection.begin():
        look = inspect(connection)
        for name in _NEW:
            assert {column["name"] for column in look.get_columns(name)} == set(metadata.tables[name].c.keys())
            assert {index["name"] for index in look.get_indexes(name)} >= {
                i.name for i in metadata.tables[name].indexes
            }


def test_typed_clients_read_every_answer(world: SyncWorld) -> None:
    for name in ("1.txt", "two.txt"):
        world.files.put(name, name.encode())
    number = {"source": {"type": "filename_regex", "pattern": r"^(\d+)"}, "transform": "json_parse", "required": True}
    mapping = {"content": {"source": {"type": "file"}}, "n": number}
    sync = world.sync(schema_mapping={"mappings": mapping}, file_filters={"extensions": ["txt"]})
    job = world.run(sync)
    shown = SyncConfigurationModel.from_dict(world.get(sync))
    assert shown is not None
    assert shown.stats is not None
    assert (shown.stats.last_run_objects_synced, shown.total_files_failed) == (1, 1)
    read = SyncJobModel.from_dict(job)
    assert read is not None
    assert (read.files_synced, read.progress_percent) == (1, 100.0)
    (row,) = world.failures(sync)
    failure = SyncDeadLetterObjectModel.from_dict(row)
    assert failure is not None
    assert failure.max_retries_reached is True
    metrics = SyncMetricsResponse.from_dict(ok(world.client.get(f"{world.path}/{sync}/metrics")))
    assert metrics is not None
    assert metrics.dlq_by_error == {"mapping_error": 1}
    path = f"/v1/organizations/connections/{world.get(sync)['connection_id']}"
    assert StorageConnectionModel.from_dict(ok(world.client.get(path))) is not None
    public = world.connection() | {"test_before_save": False, "provider_config": {"bucket": "public"}}
    made = ok(world.client.post("/v1/organizations/connections", json=public))
    assert StorageConnectionModel.from_dict(made) is not None
