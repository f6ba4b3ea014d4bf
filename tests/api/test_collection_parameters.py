"""Parameters of a collection: what nothing reads, what has no effect, what contradicts, what cannot be read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from migration_world import Library

from helpers import failed, ok, places
from mediatheca.kernel import extras
from mediatheca.settings import Settings
from server import Server, new_tenant

SCHEMA = {"properties": {"text": {"type": "text"}, "url": {"type": "string"}, "paper": {"type": "pdf"},
                         "picture": {"type": "image"}, "film": {"type": "video"}}}  # fmt: skip
PLACE = "feature_extractor.parameters"


@pytest.fixture
def library(client: httpx.Client) -> Library:
    """Its bucket alone counts here."""
    return Library(client, "all_minilm_l6_v2")


@pytest.fixture
def things(client: httpx.Client) -> str:
    made = ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": SCHEMA}))
    return str(made["bucket_id"])


def config(name: str = "text_extractor", mapped: dict[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
    return {"feature_extractor_name": name, "parameters": parameters, "input_mappings": mapped or {"text": "text"}}


def wanted(bucket: str, extractor: dict[str, Any], name: str = "things seen", **more: Any) -> dict[str, Any]:
    source = {"type": "bucket", "bucket_ids": [bucket]}
    return {"collection_name": name, "source": source, "feature_extractor": extractor, **more}


def made(client: httpx.Client, bucket: str, extractor: dict[str, Any], **more: Any) -> dict[str, Any]:
    answered: dict[str, Any] = ok(client.post("/v1/collections", json=wanted(bucket, extractor, **more)))
    return answered


def passed(source: str, target: str) -> dict[str, Any]:
    return {**config(), "field_passthrough": [{"source_path": source, "target_path": target}]}


# ---- keys


def test_misspelt_parameters_are_told_with_what_was_probably_meant(client: httpx.Client, things: str) -> None:
    answered = made(client, things, config(split_bye="words", chunk_sise=5))
    assert answered["warnings"] == [
        f"{PLACE}.split_bye: unknown key is ignored; did you mean 'split_by'?",
        f"{PLACE}.chunk_sise: unknown key is ignored; did you mean 'chunk_size'?",
    ]
    again = ok(client.get(f"/v1/collections/{answered['collection_id']}"))
    assert again["warnings"] == answered["warnings"]
    assert "split_bye" not in again["feature_extractor"]["parameters"]


def test_keys_inside_of_parameters_are_looked_at_too(client: httpx.Client, things: str) -> None:
    how = {"temprature": 0.1, "temperature": 0.1}
    silent = {"run_transcription": False, "run_multimodal_embedding": False}
    extractor = config("multimodal_extractor", {"video": "film"}, generation_config=how, **silent)
    (warning,) = made(client, things, extractor)["warnings"]
    assert warning.startswith(f"{PLACE}.generation_config.temprature: unknown key is ignored; did you mean")


def test_null_and_the_other_names_of_a_parameter_are_no_unknown_keys(client: httpx.Client, things: str) -> None:
    extractor = config("audio_fingerprint_extractor", {"audio": "film"}, hop_duration=1, youtube=None)
    assert "warnings" not in made(client, things, extractor)


def test_parameters_of_the_extractors_of_a_namespace_are_looked_at_too(admin: httpx.Client) -> None:
    entry = {"feature_extractor_name": "image_extractor", "params": {"use_cdn": True, "thumbnails": 1}}
    body = {"namespace_name": "with images", "feature_extractors": [entry]}
    told = ok(admin.post("/v1/namespaces", json=body))["warnings"]
    assert [note.partition(":")[0] for note in told] == [f"{PLACE}.thumbnails", f"{PLACE}.use_cdn"]


def test_very_many_unknown_keys_do_not_make_a_very_long_answer(client: httpx.Client, things: str) -> None:
    nonsense = {f"nonsense_{n}": n for n in range(5_000)}
    answered = made(client, things, {**config(), "parameters": nonsense})
    assert len(answered["warnings"]) == 50


# ---- values


@pytest.mark.parametrize(
    ("extractor", "places_told"),
    [
        (config("image_extractor", {"image": "picture"}, use_cdn=True), ["use_cdn"]),
        (
            config("universal_extractor", {"file": "film"}, output_dimensionality=256, task_type="CLASSIFICATION",
                   max_concurrency=8),
            ["output_dimensionality", "task_type", "max_concurrency"],
        ),
        (
            config("multimodal_extractor", {"video": "film"}, task_type="RETRIEVAL_QUERY", run_transcription=False,
                   generation_config={"video_fps": 4, "candidate_count": 3, "response_schema": {"type": "object"}}),
            ["generation_config.video_fps", "generation_config.candidate_count", "generation_config.response_schema",
             "task_type"],
        ),
        (
            config("audio_fingerprint_extractor", {"audio": "film"}, sample_rate=16_000, normalize_embeddings=False),
            ["sample_rate", "normalize_embeddings"],
        ),
        (config("transcoding_extractor", {"video": "film"}, require_native_sdks=True), ["require_native_sdks"]),
        (
            config("web_scraper", {"url": "url"}, youtube_max_videos=5, detect_captcha=False, youtube_mode="off",
                   persist_cookies=False, generate_image_embeddings=False, generate_structure_embeddings=False),
            ["detect_captcha", "youtube_max_videos"],
        ),
    ],
)  # fmt: skip
def test_a_value_without_effect_is_told_with_the_reason(
    client: httpx.Client, things: str, extractor: dict[str, Any], places_told: list[str]
) -> None:
    warnings = made(client, things, extractor)["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == [f"{PLACE}.{place}" for place in places_told]
    assert all("has no effect: " in warning for warning in warnings)


def test_what_clients_send_by_themselves_is_not_told(client: httpx.Client, things: str) -> None:
    sent = {"output_dimensionality": 3072, "task_type": "RETRIEVAL_DOCUMENT", "use_cdn": False}
    extractor = config("multimodal_extractor", {"video": "film"}, run_transcription=False, **sent)
    assert "warnings" not in made(client, things, extractor)


def test_the_catalogue_marks_what_has_no_effect(client: httpx.Client) -> None:
    shown = ok(client.get("/v1/collections/features/extractors/image_extractor_v1"))["parameter_schema"]["properties"]
    assert "signed addresses" in shown["use_cdn"]["x-no-effect"]
    assert "x-no-effect" not in shown["enable_thumbnails"]


# ---- strict


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_strict_server_refuses_what_others_only_tell(folder: Path) -> None:
    easy = Server(Settings(data_dir=folder, workers=0, log_level="error"))
    try:
        tenant = new_tenant(easy)
        with tenant.client() as client:
            namespace = ok(client.post("/v1/namespaces", json={"namespace_name": "strict"}))["namespace_id"]
            client.headers["X-Namespace"] = namespace
            bucket = ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": SCHEMA}))
            old = made(client, bucket["bucket_id"], config("image_extractor", {"image": "picture"}, use_cdn=True))
    finally:
        easy.close()
    strict = Server(Settings(data_dir=folder, workers=0, log_level="error", strict=True))
    try:
        headers = {"Authorization": f"Bearer {tenant.key}", "X-Namespace": namespace}
        with httpx.Client(base_url=strict.url, headers=headers, timeout=60) as client:
            _refuses(client, bucket["bucket_id"])
            _still_clones(client, old["collection_id"])
    finally:
        strict.close()


def _refuses(client: httpx.Client, bucket: str) -> None:
    before = ok(client.get("/v1/collections"))["results"]
    body = wanted(bucket, config("image_extractor", {"image": "picture"}, use_cdn=True, thumbnail=False), "refused")
    error = failed(client.post("/v1/collections", json=body), 422)
    assert places(error) == {f"{PLACE}.use_cdn", f"{PLACE}.thumbnail"}
    assert "unknown key is refused" in error["message"]
    body = wanted(bucket, config(), "refused", embedding_task="query")
    assert ok(client.post("/v1/collections", json=body))["embedding_task"] == "query"
    body = wanted(bucket, config("image_extractor", {"image": "picture"}), "refused too", embedding_task="query")
    assert places(failed(client.post("/v1/collections", json=body), 422)) == {"embedding_task"}
    assert len(ok(client.get("/v1/collections"))["results"]) == len(before) + 1


def _still_clones(client: httpx.Client, collection: str) -> None:
    cloned = ok(client.post(f"/v1/collections/{collection}/clone", json={"collection_name": "once more"}))
    assert "use_cdn" in cloned["collection"]["warnings"][0]
    body = {"collection_name": "and again", "descripton": "x"}
    assert places(failed(client.post(f"/v1/collections/{collection}/clone", json=body), 422)) == {"body.descripton"}
    body = {"dedup": "replace"}
    error = failed(client.post(f"/v1/collections/{collection}/trigger", json=body), 422)
    assert places(error) == {"body.dedup"}


# ---- embedding_task


def test_the_embedding_task_of_a_collection_is_that_of_its_extractor(client: httpx.Client, things: str) -> None:
    answered = made(client, things, config(), embedding_task="query")
    assert answered["embedding_task"] == "query"
    assert answered["feature_extractor"]["parameters"]["embedding_task"] == "query"
    named = made(client, things, config(embedding_task="query"), name="named")
    assert named["embedding_task"] == "query"
    cloned = ok(client.post(f"/v1/collections/{named['collection_id']}/clone", json={"collection_name": "cloned"}))
    assert cloned["collection"]["embedding_task"] == "query"


def test_two_embedding_tasks_contradict_each_other(client: httpx.Client, things: str) -> None:
    body = wanted(things, config(embedding_task="document"), embedding_task="query")
    error = failed(client.post("/v1/collections", json=body), 422)
    assert places(error) == {"embedding_task"}
    body = wanted(things, config(), embedding_task="to be read")
    assert places(failed(client.post("/v1/collections", json=body), 422)) == {f"{PLACE}.embedding_task"}


def test_an_extractor_without_the_parameter_says_that_the_task_has_no_effect(client: httpx.Client, things: str) -> None:
    picture = config("image_extractor", {"image": "picture"})
    answered = made(client, things, picture, embedding_task="query")
    assert answered["warnings"] == [
        "embedding_task: 'query' has no effect: image_extractor has no parameter embedding_task; leave it out"
    ]
    assert answered["embedding_task"] is None
    assert "warnings" not in made(client, things, picture, name="other", embedding_task="document")


# ---- language


def test_a_language_that_is_named_stands_in_every_document(library: Library) -> None:
    extractor = config(language="de", embedding_model="all_minilm_l6_v2")
    answered = made(library.client, library.bucket, extractor)
    assert answered["output_schema"]["properties"]["language"]["type"] == "string"
    german = Library.of(library.client, library.bucket, answered["collection_id"])
    german.add({"fox": "Der Fuchs springt über den Hund"})
    (document,) = ok(library.client.post(f"{german.path}/documents/list", json={}))["results"]
    assert document["language"] == "de"
    plain = ok(library.client.get(library.path))
    assert "language" not in plain["output_schema"]["properties"]


# ---- fields passed through


@pytest.mark.parametrize(("source", "target"), [("url", "text"), ("url", "page_number"), ("url", "text.inside")])
def test_nothing_is_passed_onto_an_output_of_the_extractor(
    client: httpx.Client, things: str, source: str, target: str
) -> None:
    error = failed(client.post("/v1/collections", json=wanted(things, passed(source, target))), 422)
    assert places(error) == {"feature_extractor.field_passthrough.0"}
    assert "give it another target_path" in error["message"]


@pytest.mark.parametrize(("source", "target"), [("text", "text"), ("text", "original"), ("url", "url")])
def test_other_names_and_the_same_one_are_passed_through(
    client: httpx.Client, things: str, source: str, target: str
) -> None:
    assert target in made(client, things, passed(source, target))["output_schema"]["properties"]


# ---- what cannot be read here


@pytest.mark.parametrize(
    ("extractor", "extra", "module"),
    [
        (config(mapped={"text": "paper"}), "pdf", "pypdfium2"),
        (config("image_extractor", {"image": "paper"}), "pdf", "pypdfium2"),
        (config("splade_extractor", {"text": "paper"}), "pdf", "pypdfium2"),
        (config(split_by="time_segments"), "text", "pysubs2"),
        (config("course_content_extractor", {"video": "film", "captions": "text"}, segmentation_method="srt"), "text",
         "pysubs2"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_said_when_the_collection_is_made(
    client: httpx.Client, things: str, extractor: dict[str, Any], extra: str, module: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    there = extras.installed
    with monkeypatch.context() as patched:
        patched.setattr(extras, "installed", lambda name: name != module and there(name))
        error = failed(client.post("/v1/collections", json=wanted(things, extractor)), 503)
        assert f"mediatheca[{extra}]" in error["message"]
        made(client, things, config(), name="a text needs none of it")


@pytest.mark.parametrize("mapped", [{"video": "film"}, {"pdf": "paper"}, {"image": "paper"}])
def test_faces_in_what_cannot_be_opened_here_are_not_looked_for(
    client: httpx.Client, things: str, mapped: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: name not in ("av", "pypdfium2") and there(name))
    extractor = config("face_identity_extractor", mapped)
    error = failed(client.post("/v1/collections", json=wanted(things, extractor)), 503)
    assert next(iter(mapped.values())) in error["message"]


def test_what_is_passed_through_and_not_declared_is_told_and_taken_where_it_is(
    client: httpx.Client, things: str
) -> None:
    passed = ["txt", {"source_path": "url", "target_path": 5}, "metadata.shop"]
    (told,) = made(client, things, {**config(), "field_passthrough": passed})["warnings"]
    assert told.startswith("feature_extractor.field_passthrough.0: only what has it passes it on")
    assert "did you mean 'text'?" in told


def test_a_collection_cannot_be_renamed_to_what_it_could_not_be_called(client: httpx.Client, things: str) -> None:
    ident = made(client, things, config())["collection_id"]
    error = failed(client.patch(f"/v1/collections/{ident}", json={"collection_name": "x"}), 422)
    assert places(error) == {"collection_name"}
    assert ok(client.patch(f"/v1/collections/{ident}", json={"collection_name": "xyz"}))["collection_name"] == "xyz"
