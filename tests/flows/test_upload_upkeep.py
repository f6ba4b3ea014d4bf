"""Uploads that nobody confirms go with their files, late files go with nobody, and what is in use stays."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from datapath_app import Application
from datapath_shop import ok
from sqlalchemy import func, select, update
from upload_shop import Uploads

from mediatheca.flows import confirmation, upload_upkeep, uploads
from mediatheca.flows.plugins import uploads as archives
from mediatheca.flows.plugins.deploy import UPLOAD, Announced, announce
from mediatheca.flows.upload_upkeep import GRACE, KEPT, expire_uploads, sweep_upload_files, upload_chores
from mediatheca.kernel import clock
from mediatheca.kernel.errors import TooManyRequestsError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.tx import Record

TEXT = b"some text"


@pytest.fixture(params=["application", "s3_application"])
def store(request: pytest.FixtureRequest) -> Application:
    made: Application = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def shelf(store: Application) -> Uploads:
    return Uploads.make(store)


@pytest.fixture
def local(application: Application) -> Uploads:
    return Uploads.make(application)


def scope(shelf: Uploads) -> Scope:
    return Scope(shelf.application.organization, shelf.client.headers["X-Namespace"])


def change(shelf: Uploads, upload: dict[str, Any], **values: Any) -> None:
    with shelf.application.db.begin(scope(shelf)) as tx:
        assert tx.update("uploads", {"upload_id": upload["upload_id"]}, values)


def long_ago(extra: timedelta = timedelta(minutes=1)) -> datetime:
    return clock.now() - GRACE - extra


def expire(shelf: Uploads) -> int:
    return expire_uploads(shelf.application.services)


def events(shelf: Uploads, upload: dict[str, Any]) -> list[str]:
    with shelf.application.db.read(scope(shelf)) as tx:
        return [each["type"] for each in tx.rows("events", {"resource_id": upload["upload_id"]}, order=("seq",))]


def test_an_upload_that_nobody_confirmed_fails_and_its_file_goes(shelf: Uploads) -> None:
    upload, fresh = shelf.announce(), shelf.announce()
    for each in (upload, fresh):
        shelf.put(each["presigned_url"], TEXT)
    assert expire(shelf) == 0
    change(shelf, upload, expires_at=clock.now() - GRACE + timedelta(minutes=5))
    assert expire(shelf) == 0
    change(shelf, upload, expires_at=long_ago())
    assert expire(shelf) == 1
    seen = shelf.get(upload)
    assert (seen["status"], "nobody confirmed" in seen["message"]) == ("FAILED", True)
    assert shelf.keys() == [fresh["s3_key"]]
    assert events(shelf, upload) == ["upload.created", "upload.failed"]
    assert shelf.confirm(upload).status_code == 409
    assert ok(shelf.confirm(fresh))["status"] == "COMPLETED"
    assert expire(shelf) == 0


def test_one_that_is_late_but_within_its_grace_can_be_confirmed(local: Uploads) -> None:
    upload = local.announce()
    local.put(upload["presigned_url"], TEXT)
    change(local, upload, expires_at=clock.now() - timedelta(hours=20))
    assert expire(local) == 0
    assert ok(local.confirm(upload))["status"] == "COMPLETED"
    change(local, upload, expires_at=long_ago())
    assert expire(local) == 0
    assert local.content(upload) == TEXT


def test_a_checked_copy_without_an_object_goes_too(shelf: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = shelf.announce()
    shelf.put(upload["presigned_url"], TEXT)
    stopped(shelf, upload, monkeypatch)
    assert shelf.get(upload)["status"] == "IN_PROGRESS"
    assert len(shelf.keys()) == 1
    change(shelf, upload, expires_at=long_ago())
    assert expire(shelf) == 1
    assert (shelf.get(upload)["status"], shelf.keys()) == ("FAILED", [])


def stopped(shelf: Uploads, upload: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmation that is killed before it makes its object."""

    def stop(*arguments: Any) -> Any:
        raise KeyError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(confirmation, "_make_object", stop)
        assert shelf.confirm(upload).status_code == 500


def test_one_whose_object_was_made_right_before_a_kill_is_completed(local: Uploads) -> None:
    upload = local.announce()
    local.put(upload["presigned_url"], TEXT)
    done = ok(local.confirm(upload))
    change(local, upload, status="IN_PROGRESS", object_id=None, completed_at=None, expires_at=long_ago())
    assert expire(local) == 1
    seen = local.get(upload)
    assert (seen["status"], seen["object_id"]) == ("COMPLETED", done["object_id"])
    assert local.content(upload) == TEXT


def test_more_than_one_piece_of_late_uploads_goes_in_one_run(local: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_upkeep, "_MOST", 2)
    made = [local.announce() for _ in range(5)]
    for upload in made:
        change(local, upload, expires_at=long_ago())
    assert expire(local) == 5


def test_what_came_to_nothing_is_forgotten_after_a_month_and_what_became_something_is_not(local: Uploads) -> None:
    gone, kept, done = (local.announce() for _ in range(3))
    for upload in (gone, kept):
        assert local.client.delete(f"/v1/buckets/{local.bucket}/uploads/{upload['upload_id']}").status_code == 204
    local.put(done["presigned_url"], TEXT)
    ok(local.confirm(done))
    old = clock.now() - KEPT - timedelta(hours=1)
    change(local, gone, completed_at=old)
    change(local, done, completed_at=old)
    expire(local)
    listed = ok(local.client.get(f"/v1/buckets/{local.bucket}/uploads"))["results"]
    assert {each["upload_id"] for each in listed} == {kept["upload_id"], done["upload_id"]}


# ---- files


def test_a_file_that_came_after_its_upload_was_over_is_swept(shelf: Uploads) -> None:
    canceled, done, open_, failed = (shelf.announce() for _ in range(4))
    for upload in (done, open_):
        shelf.put(upload["presigned_url"], TEXT)
    ok(shelf.confirm(done))
    shelf.client.delete(f"/v1/buckets/{shelf.bucket}/uploads/{canceled['upload_id']}")
    change(shelf, failed, status="FAILED")
    blobs = shelf.application.services.blobs
    for upload in (canceled, done, failed):  # by their URLs, which an object store still honours
        blobs.put(upload["s3_key"], b"late")
    kept = {open_["s3_key"], shelf.get(done)["s3_key"]}
    assert set(shelf.keys()) > kept
    assert sweep_upload_files(shelf.application.services) == 3
    assert set(shelf.keys()) == kept
    assert sweep_upload_files(shelf.application.services) == 0
    assert shelf.content(done) == TEXT


def test_copies_that_a_killed_confirmation_left_are_swept_when_it_is_over(local: Uploads) -> None:
    open_, done = local.announce(), local.announce()
    local.put(done["presigned_url"], TEXT)
    ok(local.confirm(done))
    blobs, at = local.application.services.blobs, scope(local)
    folder = f"{at.organization_id}/{at.namespace_id}/files"
    copies = {f"{folder}/{each['upload_id']}/{number}/a.txt" for number, each in enumerate((open_, done))}
    orphan = f"{folder}/upl_nobody/1/a.txt"
    for key in (*copies, orphan):
        blobs.put(key, b"copy")
    assert sweep_upload_files(local.application.services) == 2
    left = set(local.keys())
    assert f"{folder}/{open_['upload_id']}/0/a.txt" in left  # it may be under examination
    assert local.get(done)["s3_key"] in left
    assert orphan not in left


def test_the_file_of_an_object_stays_whatever_became_of_its_upload(local: Uploads) -> None:
    upload = local.announce()
    local.put(upload["presigned_url"], TEXT)
    ok(local.confirm(upload))
    change(local, upload, status="FAILED")
    assert sweep_upload_files(local.application.services) == 0
    assert local.content(upload) == TEXT


# ---- how many may be open


def test_an_organization_has_so_many_open_uploads_and_no_more(local: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_OPEN", 4)
    path = f"/v1/buckets/{local.bucket}/uploads"
    body = {"filename": "a.txt", "content_type": "text/plain"}
    first = local.announce()
    for _ in range(2):
        local.announce()
    answer = local.client.post(f"{path}/batch", json={"uploads": [body] * 2})
    assert answer.status_code == 429
    local.announce()
    refused = local.client.post(path, json=body)
    assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 3600)
    message = refused.json()["error"]["message"]
    assert "4 uploads that were not confirmed" in message
    assert "confirm or delete some" in message
    local.put(first["presigned_url"], TEXT)
    ok(local.confirm(first))
    local.announce()
    other = Uploads.make(local.application)
    other.announce()


def test_open_uploads_are_counted_by_an_index(local: Uploads) -> None:
    uploads_ = tables.uploads
    statement = select(func.count()).where(
        uploads_.c.organization_id == "org_a", uploads_.c.status.in_(("PENDING", "IN_PROGRESS"))
    )
    engine = local.application.db.engine
    with engine.connect() as connection:
        text = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
        plan = " ".join(str(each) for each in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert "ix_uploads_open" in plan


# ---- archives of plug-ins


def archive(shelf: Uploads, name: str) -> Record:
    """An announced plug-in whose file has arrived."""
    with shelf.application.db.begin(scope(shelf)) as tx:
        made = announce(tx, Announced(name, "1.0.0"))
    shelf.application.services.blobs.put(made.body["store_key"], b"zip")
    return made


def aged(shelf: Uploads, made: Record, status: str) -> Record:
    """The same after days."""
    body = {**made.body, "status": status, "expires_at": clock.wire_time(long_ago())}
    with shelf.application.db.system() as connection:
        statement = update(tables.resources).where(tables.resources.c.id == made.id)
        connection.execute(statement.values(body=body, created_at=clock.now() - timedelta(days=3)))
    return made


def test_archives_that_nobody_confirmed_are_forgotten_with_their_files(local: Uploads) -> None:
    for name, status in (("never_sent", "PENDING"), ("was_refused", "FAILED")):
        aged(local, archive(local, name), status)
    done, fresh = aged(local, archive(local, "is_there"), "COMPLETED"), archive(local, "fresh_one")
    assert expire(local) == 2
    with local.application.db.read(scope(local)) as tx:
        left = {record.id for record in tx.resources(UPLOAD)}
    assert left == {done.id, fresh.id}
    assert local.keys() == [fresh.body["store_key"]]


def test_only_so_many_archives_wait_to_be_confirmed(local: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_OPEN", 2)
    for number in range(2):
        archive(local, f"plug_{number}")
    with pytest.raises(TooManyRequestsError, match="2 uploads of plugins are not confirmed"):
        archive(local, "plug_more")


def test_every_chore_runs(local: Uploads) -> None:
    for seconds, chore in upload_chores(local.application.services):
        assert seconds >= 600
        chore()
