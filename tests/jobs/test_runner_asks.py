"""What children ask, beat, drop and hand over: the parent answers each, and a child that cheats dies alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mediatheca.extractors import Dropped, Item, Source
from mediatheca.jobs.runner import ItemFailure, ItemProgress, ItemRows, LocalRunner
from mediatheca.jobs.runner_asks import OpenQuestions
from mediatheca.kernel.desk import NO_DESK, Desk
from mediatheca.kernel.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    MediathecaError,
    NotFoundError,
    TooManyRequestsError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.outside import Generate, Generated, HttpAnswer, HttpRequest, RenderRequest
from mediatheca.providers import ModelSettings
from mediatheca.stores.fetch import FetchFailedError


def item(text: str, name: str) -> Item:
    return Item(name, {"text": [Source(value=text, key="text")]})


def run(runner: LocalRunner, *texts: str, desk: Desk = NO_DESK) -> dict[str, ItemRows | ItemFailure]:
    items = [item(text, f"{number}") for number, text in enumerate(texts)]
    results = [r for r in runner.map("asking_v1", {}, items, desk) if not isinstance(r, ItemProgress)]
    assert sorted(result.item_id for result in results) == sorted(f"{number}" for number in range(len(texts)))
    return {result.item_id: result for result in results}


def fields(result: ItemRows | ItemFailure) -> dict[str, object]:
    assert isinstance(result, ItemRows), result
    return result.rows[0].fields


def failure(result: ItemRows | ItemFailure) -> ItemFailure:
    assert isinstance(result, ItemFailure), result
    return result


@dataclass
class Office:
    """A desk that answers from what a test gave it."""

    raises: MediathecaError | None = None
    delay_s: float = 0.0
    size: int = 0
    asked: list[object] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        self.asked.append(request)
        if request.url.startswith("slow"):
            time.sleep(4 if request.url == "slower" else 2)
        time.sleep(self.delay_s)
        if self.raises is not None:
            raise self.raises
        data = b"x" * self.size if self.size else f"page {request.url}".encode()
        return HttpAnswer(200, {"server": "real"}, data, "text/plain", f"https://{request.url}")

    def render(self, request: RenderRequest) -> HttpAnswer:
        return HttpAnswer(200, {}, b"<p>after</p>", "text/html", request.url)

    def generate(self, request: Generate) -> Generated:
        self.asked.append(request)
        if request.prompt == "break":
            raise RuntimeError("a bug")
        return Generated("said", {"list": [1, {"two": None}]})

    def recall(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.kept[key] = data


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalRunner]]:
    made: list[LocalRunner] = []

    def make(item_timeout_s: float = 120.0, processes: int = 1) -> LocalRunner:
        settings = ModelSettings(models_dir=tmp_path)
        scratch = tmp_path / "children"
        made.append(LocalRunner(processes, 400, item_timeout_s, settings, ["runner_plugins"], scratch=scratch))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def runner(make: Callable[..., LocalRunner]) -> LocalRunner:
    return make()


# Questions


def test_a_question_is_answered_as_it_was_asked(runner: LocalRunner) -> None:
    office = Office()
    found = fields(run(runner, "fetch u1", desk=office)["0"])
    assert found == {"status": 200, "data": "page u1", "url": "https://u1"}
    assert office.asked == [HttpRequest("u1", headers={"a": "b"}, timeout_s=5)]


def test_a_model_and_a_browser_are_asked_alike(runner: LocalRunner) -> None:
    office = Office()
    results = run(runner, "generate hello", "render https://x", desk=office)
    assert fields(results["0"]) == {"text": "said", "value": {"list": [1, {"two": None}]}}
    assert fields(results["1"]) == {"html": "<p>after</p>"}
    (asked,) = office.asked
    assert isinstance(asked, Generate)
    assert (asked.schema, [tuple(f) for f in asked.files]) == ({"type": "object"}, [("image/png", b"\x89PNG")])


def test_threads_of_a_child_ask_side_by_side(runner: LocalRunner) -> None:
    found = fields(run(runner, "many 20", desk=Office(delay_s=0.02))["0"])
    assert found["data"] == [f"page u{number}" for number in range(20)]


def test_who_has_its_answer_has_no_question_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child whose threads ask all they may puts the next question when an answer has come."""
    monkeypatch.setattr("mediatheca.jobs.runner_asks.MAX_OPEN", 1)
    told, over = list[tuple[object, ...]](), threading.Event()

    def send(message: tuple[object, ...]) -> None:
        told.append(message)
        try:
            if len(told) < 3:
                questions.take(len(told), "fetch", {"url": "u"})
        except ValueError:
            over.set()
            raise
        if len(told) == 3:
            over.set()

    with ThreadPoolExecutor(1) as threads:
        questions = OpenQuestions(Office(), send, threads)
        questions.take(0, "fetch", {"url": "u"})
        assert over.wait(120)
    assert [message[:3] for message in told] == [("answered", number, True) for number in range(3)]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ValidationError.at("url", "leads nowhere"), True),
        (NotFoundError("secret", "s"), True),
        (ForbiddenError("not yours"), True),
        (ConflictError("taken"), True),
        (BadRequestError("no page"), True),
        (FetchFailedError("the host hung up"), False),
        (TooManyRequestsError("slow down", 3.0), False),
        (UnavailableError("no model"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_desk_is_raised_in_the_child(
    runner: LocalRunner, error: MediathecaError, permanent: bool
) -> None:
    failed = failure(run(runner, "fetch u", desk=Office(raises=error))["0"])
    assert failed.reason == error.message
    assert (failed.phase, failed.permanent) == ("extract", permanent)
    assert type(error).__name__ in failed.trace or isinstance(error, FetchFailedError)


def test_a_bug_behind_the_desk_is_an_error_that_tells_nothing_of_it(runner: LocalRunner) -> None:
    failed = failure(run(runner, "generate break", desk=Office())["0"])
    assert failed.reason == "the answer failed: RuntimeError"
    assert not failed.permanent


def test_without_a_desk_a_question_is_an_error_that_says_what_to_do(runner: LocalRunner) -> None:
    assert "give the query as text" in failure(run(runner, "fetch u")["0"]).reason


def test_a_slow_answer_is_waited_for_and_does_not_hold_up_others(make: Callable[..., LocalRunner]) -> None:
    runner = make(item_timeout_s=2.0, processes=2)
    results = run(runner, "fetch slower", *["fetch quick"] * 20, desk=Office())
    assert all(isinstance(result, ItemRows) for result in results.values()), "longer than an item may be silent"


def test_a_large_answer_comes_whole(runner: LocalRunner) -> None:
    found = fields(run(runner, "fetch big", desk=Office(size=20 << 20))["0"])
    assert found["data"] == "x" * (20 << 20)


def test_a_child_that_dies_while_it_asks_costs_its_item_only(runner: LocalRunner) -> None:
    results = run(runner, "fetch a", "die", "fetch b", desk=Office())
    assert "exit code 5" in failure(results["1"]).reason
    assert [fields(results[number])["data"] for number in "02"] == ["page a", "page b"]


@pytest.mark.parametrize("message", ["twice", "name", "types", "number", "payload", "many", "beat", "unknown"])
def test_a_child_that_forges_messages_is_killed(runner: LocalRunner, message: str) -> None:
    results = run(runner, "fetch a", f"forge {message}", "fetch b", desk=Office())
    assert "nonsense" in failure(results["1"]).reason
    assert [fields(results[number])["data"] for number in "02"] == ["page a", "page b"]


def test_a_caller_that_leaves_while_a_child_asks_ends_it(runner: LocalRunner) -> None:
    results = runner.map("asking_v1", {}, [item("fetch a", "0"), item("fetch slow", "1")], Office())
    assert next(results).item_id == "0"
    results.close()
    assert fields(run(runner, "fetch b", desk=Office())["0"])["data"] == "page b"


# Steps


def test_a_step_is_made_once(runner: LocalRunner, tmp_path: Path) -> None:
    office, log = Office(), tmp_path / "log"
    first, second = (run(runner, f"step {log}", desk=office)["0"] for _ in range(2))
    assert log.read_text() == "made\n"
    assert fields(first) == fields(second) == {"words": ["a", "b"]}
    assert isinstance(second, ItemRows)
    assert second.rows[0].vectors["v"].tolist() == [1, 1, 1]
    assert len(office.kept) == 1


def test_a_step_that_comes_back_damaged_is_made_again(runner: LocalRunner, tmp_path: Path) -> None:
    office, log = Office(), tmp_path / "log"
    run(runner, f"step {log}", desk=office)
    (key,) = office.kept
    whole = office.kept[key]
    for damaged in (whole[:-1], whole[:20], b"", whole[:-3] + b"xxx"):
        office.kept[key] = damaged
        run(runner, f"step {log}", desk=office)
        assert office.kept[key] == whole
    assert log.read_text() == "made\n" * 5


# Beats


def test_an_item_that_beats_may_take_longer(make: Callable[..., LocalRunner]) -> None:
    runner = make(item_timeout_s=2.0)
    results = list(runner.map("asking_v1", {}, [item("beat 4", "long")]))
    assert isinstance(results[-1], ItemRows)
    assert {(r.item_id, r.done) for r in results[:-1] if isinstance(r, ItemProgress)} == {("long", 0.5)}
    assert 1 <= len(results) - 1 <= 17, "beats that come fast are not sent"


def test_an_item_that_beats_for_ever_is_cut(make: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.jobs.runner_work._BEATEN_TIMES", 2)
    results = run(make(item_timeout_s=1.5), "beat 60", "drop")
    assert "longer than 3 seconds in all" in failure(results["0"]).reason
    assert failure(results["0"]).phase == "timeout"
    assert isinstance(results["1"], ItemRows)


# Files, parts, times


def test_a_file_is_there_until_the_next_result_and_the_scratch_folder_is_each_items_own(
    runner: LocalRunner, tmp_path: Path
) -> None:
    seen: list[Path] = []
    for result in runner.map("asking_v1", {}, [item("files 3", str(number)) for number in range(4)]):
        assert isinstance(result, ItemRows)
        assert all(not path.exists() for path in seen)
        artifact = result.rows[0].artifacts["segment_url"]
        assert (artifact.mime_type, artifact.suffix, artifact.role) == ("video/mp4", ".mp4", "processed")
        assert artifact.size() == 3 << 20
        assert result.rows[0].fields == {"left_over": []}
        seen.append(Path(str(artifact.path)))
    assert len(set(seen)) == 4
    assert all(not path.exists() for path in seen)


def test_a_gigabyte_of_files_leaves_our_memory_as_it_was(runner: LocalRunner) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))

    run(runner, "files 1")
    before = resident()
    for result in runner.map("asking_v1", {}, [item("files 64", str(number)) for number in range(16)]):
        assert isinstance(result, ItemRows)
    assert resident() - before < 40_000


def test_a_file_from_elsewhere_is_no_artifact(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    results = run(runner, f"steal {tmp_path / 'secret'}", "steal /etc/passwd", "steal ../out")
    assert all("no file in its scratch folder" in failure(result).reason for result in results.values())
    assert (tmp_path / "secret").exists()


def test_a_file_is_read_under_a_name_in_the_childs_own_folder(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("content")
    given = Item("0", {"text": [Source(path=str(tmp_path / "given"), key="text")]})
    (result,) = runner.map("asking_v1", {}, [given])
    assert isinstance(result, ItemRows)
    assert result.rows[0].fields["text"] == "content"
    assert Path(str(result.rows[0].fields["path"])).is_relative_to(tmp_path / "children")
    assert not Path(str(result.rows[0].fields["path"])).exists(), "given back at the end of the part"
    assert (tmp_path / "given").read_text() == "content"


def test_a_file_that_has_gone_fails_its_item(runner: LocalRunner, tmp_path: Path) -> None:
    gone = Item("0", {"text": [Source(path=str(tmp_path / "gone"), key="text")]})
    results = {r.item_id: r for r in runner.map("asking_v1", {}, [gone, item("drop", "1")])}
    assert isinstance(results["0"], ItemFailure)
    assert results["0"].phase == "input"
    assert isinstance(results["1"], ItemRows)


def test_parts_that_were_dropped_are_told_beside_the_rows(runner: LocalRunner) -> None:
    result = run(runner, "drop")["0"]
    assert isinstance(result, ItemRows)
    assert [row.fields["text"] for row in result.rows] == ["page 1", "page 3"]
    assert result.dropped == [Dropped("page 2", "it is torn", "file", 1, "page")]


def test_the_times_of_an_item_are_told_and_of_nested_ones_only_the_inner_counts(runner: LocalRunner) -> None:
    result = run(runner, "timed")["0"]
    assert isinstance(result, ItemRows)
    assert set(result.times) == {"decode", "model", "item"}
    assert result.times["decode"] + result.times["model"] <= result.times["item"]
    assert result.times["model"] >= 0.1


def test_folders_of_children_go_with_them(make: Callable[..., LocalRunner], tmp_path: Path) -> None:
    runner = make()
    run(runner, "files 1")
    (folder,) = (tmp_path / "children").iterdir()
    assert len(list(folder.glob("*/scratch"))) == 1
    run(runner, "die", desk=Office())
    assert sorted(path.name for path in folder.iterdir()) == ["lock"]
    runner.close()
    assert list((tmp_path / "children").iterdir()) == []


def test_what_a_killed_server_left_behind_goes_and_a_living_ones_stays(
    make: Callable[..., LocalRunner], tmp_path: Path
) -> None:
    left = tmp_path / "children" / "left"
    (left / "child" / "scratch").mkdir(parents=True)
    (left / "lock").touch()
    first = make()
    run(first, "drop")
    assert not left.exists()
    second = make()
    assert isinstance(run(first, "files 1")["0"], ItemRows)
    assert isinstance(run(second, "files 1")["0"], ItemRows)


# Queries


def test_the_file_of_a_query_goes_its_own_way(runner: LocalRunner) -> None:
    query = Item("query", {"text": [Source(data=b"abc", key="query")]})
    (result,) = runner.map("asking_v1", {"factor": 2}, [query], query="v")
    assert isinstance(result, ItemRows)
    assert np.array_equal(result.rows[0].vectors["v"], np.full(4, 6, np.float32))
    (empty,) = runner.map("asking_v1", {}, [Item("query", {"text": [Source(data=b"", key="query")]})], query="v")
    assert failure(empty).reason == "an empty file is no query"


def test_many_callers_share_the_children_and_each_has_its_own_desk(make: Callable[..., LocalRunner]) -> None:
    runner, offices = make(processes=2), [Office() for _ in range(4)]
    threads = [
        threading.Thread(target=lambda n=n: run(runner, *[f"fetch {n}"] * 20, desk=offices[n])) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, office in enumerate(offices):
        assert {request.url for request in office.asked if isinstance(request, HttpRequest)} == {f"{number}"}
        assert len(office.asked) == 20
