"""What was confirmed stays what was hashed, whatever the signed URL of the upload is used for later."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from datapath_app import Application
from datapath_shop import ok
from upload_shop import Uploads

from mediatheca.flows import confirmation
from mediatheca.stores.blobs.local import LocalBlobs

FIRST, SECOND = b"first text", b"other text"


@pytest.fixture(params=["application", "s3_application"])
def store(request: pytest.FixtureRequest) -> Application:
    made: Application = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def uploads(store: Application) -> Uploads:
    return Uploads.make(store)


def test_a_put_after_the_confirmation_changes_nothing(uploads: Uploads) -> None:
    upload = uploads.announce()
    assert uploads.put(upload["presigned_url"], FIRST) in (200, 201, 204)
    done = ok(uploads.confirm(upload))
    assert done["file_hash"] == hashlib.sha256(FIRST).hexdigest()
    late = uploads.put(upload["presigned_url"], SECOND)
    assert late == (409 if isinstance(uploads.application.services.blobs, LocalBlobs) else 200)
    assert uploads.content(upload) == FIRST
    path = f"/v1/buckets/{uploads.bucket}/objects/{done['object_id']}"
    assert ok(uploads.client.get(path))["blobs"][0]["details"]["hash"] == f"sha256:{done['file_hash']}"
    assert ok(uploads.confirm(upload))["file_hash"] == done["file_hash"]


def test_a_put_between_copy_and_check_changes_nothing(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = uploads.announce(file_hash=hashlib.sha256(FIRST).hexdigest())
    uploads.put(upload["presigned_url"], FIRST)
    real = confirmation._examine

    def slow(*arguments: Any) -> Any:
        uploads.put(upload["presigned_url"], SECOND)
        return real(*arguments)

    monkeypatch.setattr(confirmation, "_examine", slow)
    assert ok(uploads.confirm(upload))["status"] == "COMPLETED"
    assert uploads.content(upload) == FIRST


def test_the_file_moves_away_from_where_the_url_writes(uploads: Uploads) -> None:
    upload = uploads.announce()
    uploads.put(upload["presigned_url"], FIRST)
    ok(uploads.confirm(upload))
    after = uploads.get(upload)["s3_key"]
    assert after != upload["s3_key"]
    assert uploads.keys() == [after]


def test_a_refused_file_leaves_no_copy(uploads: Uploads) -> None:
    upload = uploads.announce(file_hash="0" * 64)
    uploads.put(upload["presigned_url"], FIRST)
    assert uploads.confirm(upload).status_code == 400
    assert uploads.get(upload)["status"] == "FAILED"
    assert uploads.keys() == []


def test_many_confirmations_at_once_keep_one_file_and_make_one_object(uploads: Uploads) -> None:
    upload = uploads.announce()
    uploads.put(upload["presigned_url"], FIRST)
    with ThreadPoolExecutor(5) as pool:
        done = [ok(answer) for answer in pool.map(lambda _: uploads.confirm(upload), range(5))]
    assert len({row["object_id"] for row in done}) == 1
    assert uploads.keys() == [uploads.get(upload)["s3_key"]]
    assert uploads.content(upload) == FIRST


def test_a_confirmation_that_stopped_half_way_is_finished_by_the_next(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.announce()
    uploads.put(upload["presigned_url"], FIRST)
    with monkeypatch.context() as patch:

        def stop(*arguments: Any) -> Any:
            raise KeyError("the power went")

        patch.setattr(confirmation, "_make_object", stop)
        assert uploads.confirm(upload).status_code == 500
    seen = uploads.get(upload)
    assert (seen["status"], seen["presigned_url"]) == ("IN_PROGRESS", None)
    uploads.put(upload["presigned_url"], SECOND)
    assert ok(uploads.confirm(upload))["status"] == "COMPLETED"
    assert uploads.content(upload) == FIRST


def test_a_half_confirmed_upload_can_be_given_up_with_its_file(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploads.announce()
    uploads.put(upload["presigned_url"], FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(confirmation, "_make_object", lambda *_: 1 / 0)
        assert uploads.confirm(upload).status_code == 500
    answer = uploads.client.delete(f"/v1/buckets/{uploads.bucket}/uploads/{upload['upload_id']}")
    assert answer.status_code == 204
    assert uploads.keys() == []
    assert uploads.confirm(upload).status_code == 409


def test_an_upload_whose_object_was_deleted_makes_no_object_without_a_file(uploads: Uploads) -> None:
    upload = uploads.announce(create_object_on_confirm=False)
    uploads.put(upload["presigned_url"], FIRST)
    ok(uploads.confirm(upload))
    path = f"/v1/buckets/{uploads.bucket}/objects"
    body = {"blobs": [{"property": "file", "upload_id": upload["upload_id"]}]}
    made = ok(uploads.client.post(path, json=body))
    assert uploads.client.delete(f"{path}/{made['object_id']}").status_code == 204
    refused = uploads.client.post(path, json=body)
    assert refused.status_code == 422
    assert "upload it again" in refused.text


def test_a_deleted_bucket_takes_confirmed_files_that_no_object_has(uploads: Uploads) -> None:
    upload = uploads.announce(create_object_on_confirm=False)
    uploads.put(upload["presigned_url"], FIRST)
    ok(uploads.confirm(upload))
    assert uploads.keys()
    ok(uploads.client.delete(f"/v1/buckets/{uploads.bucket}"))
    assert uploads.keys() == []
