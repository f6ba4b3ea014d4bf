"""Files at addresses come to this machine as they are needed, are known by their content, and do not stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_shop import SEPARATOR, ok

from outside_site import Reply, Site, a_site


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    made = Application(tmp_path_factory.mktemp("data"), fetch_allow="127.0.0.1", chunk_size=50)
    yield made
    made.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as made:
        yield made


@pytest.fixture
def counted(application: Application, tmp_path: Path) -> Counted:
    return Counted(application, application.shop(), tmp_path)


def text(number: int) -> str:
    return SEPARATOR.join(f"text {number} part {part}" for part in range(2))


def refer(counted: Counted, urls: list[str]) -> list[str]:
    """Objects whose texts stay where they are."""
    blobs = [{"property": "text", "url": url, "canonicalize_source": False} for url in urls]
    body = {"objects": [{"number": number, "blobs": [blob]} for number, blob in enumerate(blobs)]}
    made = ok(counted.shop.client.post(f"/v1/buckets/{counted.shop.bucket}/objects/batch", json=body))
    return [row["object_id"] for row in made["succeeded"]]


def scratch(application: Application) -> list[Path]:
    """Files in the scratch folder, those that children hold for themselves left out."""
    found = (application.folder / "scratch").rglob("*")
    return [path for path in found if path.is_file() and path.name != "lock"]


def test_texts_at_addresses_become_documents_and_nothing_stays(counted: Counted, site: Site) -> None:
    for number in range(25):
        site.routes[f"/{number}"] = Reply(text(number).encode(), headers={"content-type": "text/plain"})
    refer(counted, [f"{site.url}/{number}" for number in range(25)])
    counted.shop.process()  # with the extractor that keeps nothing
    parts = sorted(part for number in range(25) for part in text(number).split(SEPARATOR))
    assert counted.shop.texts() == parts
    collection = counted.collection()
    assert counted.process(collection)["status"] == "COMPLETED"
    assert counted.shop.texts(collection) == parts
    assert counted.computed == 25
    assert scratch(counted.application) == []


def test_the_content_of_an_address_decides_what_is_computed_again(counted: Counted, site: Site) -> None:
    for number in range(20):
        site.routes[f"/{number}"] = Reply(text(number % 4).encode(), headers={"content-type": "text/plain"})
    refer(counted, [f"{site.url}/{number}" for number in range(20)])
    assert counted.process(counted.collection())["status"] == "COMPLETED"
    assert counted.computed == 4
    site.routes["/7"] = Reply(b"something new", headers={"content-type": "text/plain"})
    assert counted.process(counted.collection())["status"] == "COMPLETED"
    assert counted.computed == 5


def test_an_address_that_does_not_answer_fails_its_object_alone(counted: Counted, site: Site) -> None:
    site.routes["/0"] = Reply(text(0).encode(), headers={"content-type": "text/plain"})
    site.routes["/2"] = Reply(b"x", status=503)
    ids = refer(counted, [f"{site.url}/{number}" for number in range(3)])
    for collection in (counted.collection(), counted.shop.collection):
        batch = counted.process(collection)
        assert batch["status"] == "COMPLETED_WITH_ERRORS"
        failures = {row["object_id"]: row for row in counted.shop.failures(batch["batch_id"])}
        assert {failure["phase"] for failure in failures.values()} == {"fetch"}
        assert "404" in failures[ids[1]]["reason"]
        assert "503" in failures[ids[2]]["reason"]
        assert counted.shop.texts(collection) == text(0).split(SEPARATOR)
