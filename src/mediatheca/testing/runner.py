"""The contract of runners, as tests: subclass `RunnerContract` and give it a way to make one.

```python
class TestMyRunner(RunnerContract):
    @pytest.fixture
    def make(self):
        made = []
        def make(processes=1, item_timeout_s=20.0, memory_limit_mb=400):
            made.append(MyRunner(..., plugins=[PLUGINS]))
            return made[-1]
        yield make
        for runner in made: runner.close()
```
"""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import pytest

from mediatheca.extractors import Item, ItemError, Source
from mediatheca.jobs.runner import Runner
from mediatheca.jobs.runner_pool import RunnerClosedError
from mediatheca.jobs.runner_results import ItemFailure, ItemProgress, ItemResult, ItemRows
from mediatheca.jobs.runner_supply import AHEAD, Awaited
from mediatheca.kernel.desk import NO_DESK, Desk, NoDesk
from mediatheca.kernel.errors import NotFoundError, TooManyRequestsError, UnavailableError, ValidationError
from mediatheca.kernel.outside import Generate, Generated, HttpAnswer, HttpRequest

PLUGINS = "mediatheca.testing.conduct"
EXTRACTOR = "conduct_v1"


class Make(Protocol):
    """Makes a runner that knows the plug-ins of `PLUGINS`; the fixture closes it."""

    def __call__(self, processes: int = 1, item_timeout_s: float = 20.0, memory_limit_mb: int = 400) -> Runner: ...


class ShelfDesk(NoDesk):
    """A desk with a memory, one address and one answer."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def recall(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.kept[key] = data

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        if "busy" in request.url:
            raise TooManyRequestsError("the host's rate is used up", 7.5)
        if "refused" in request.url:
            raise ValidationError.at("url", "a private address")
        if "slow" in request.url:
            time.sleep(1.0)
        return HttpAnswer(200, {}, b"x" * 1000, "text/plain", request.url)

    def generate(self, request: Generate) -> Generated:
        return Generated(f"answer to {request.prompt}")


def item(text: str, name: str = "", **files: Path) -> Item:
    """An item for `conduct`."""
    inputs = {"text": [Source(value=text, key="text")]}
    inputs |= {key: [Source(path=str(path), key=key)] for key, path in files.items()}
    return Item(name or text, inputs)


def results(runner: Runner, *texts: str, desk: Desk = NO_DESK, **params: Any) -> list[ItemResult]:
    """One result for each text, in their order; progress is left out."""
    items = [item(text, f"{n}") for n, text in enumerate(texts)]
    found = [r for r in runner.map(EXTRACTOR, params, items, desk) if not isinstance(r, ItemProgress)]
    assert sorted(r.item_id for r in found) == sorted(i.item_id for i in items)
    return sorted(found, key=lambda result: int(result.item_id))


def rows(result: ItemResult) -> list[dict[str, Any]]:
    """The fields of the rows of an item that went well."""
    assert isinstance(result, ItemRows), result
    return [row.fields for row in result.rows]


def lacking(text: str, name: str) -> Item:
    """An item for `conduct` whose file has this name in a `Cellar`."""
    return Item(name, {"text": [Source(value=text, key="text")], "file": [Awaited(key="file", store_key=name)]})


class Cellar:
    """Brings files, and keeps count of those that are here."""

    def __init__(self) -> None:
        self.brought: list[str] = []
        self.most = 0
        self._paths: set[Path] = set()
        self._lock = threading.Lock()

    @staticmethod
    def content(name: str) -> bytes:
        return name.encode() * 70_000

    def here(self) -> int:
        """How many of the files are on this machine."""
        with self._lock:
            paths = list(self._paths)
        return sum(path.exists() for path in paths)

    def __call__(self, source: Awaited, path: Path) -> Source:
        name = source.store_key
        if name in ("gone", "away"):
            raise ItemError(f"{name}: no such file", permanent=name == "gone")
        if name == "store away":
            raise UnavailableError("the store is away")
        path.write_bytes(self.content(name))
        with self._lock:
            self.brought.append(name)
            self._paths.add(path)
            self.most = max(self.most, sum(each.exists() for each in self._paths))
        return Source(path=str(path), key=source.key)


class RunnerContract:
    """What every runner promises. Fixture to give: `make`."""

    @pytest.fixture
    def runner(self, make: Make) -> Runner:
        return make()

    def test_rows_come_back_as_they_were_made(self, runner: Runner) -> None:
        (result,) = results(runner, "vectors 70000")
        assert isinstance(result, ItemRows)
        (row,) = result.rows
        assert (row.fields, row.source_key, row.position) == ({"nested": [{"a": 1.5, "b": None}]}, "key", 4)
        assert row.vectors["dense"].tolist() == [0, 1, 2]
        assert (row.vectors["multi"].shape, row.vectors["multi"].dtype.name) == ((70_000, 4), "float32")
        assert all(vector.flags.writeable for vector in row.vectors.values())

    def test_an_item_may_have_no_rows_and_a_call_no_items(self, runner: Runner) -> None:
        (result,) = results(runner, "nothing")
        assert rows(result) == []
        assert results(runner) == []

    def test_what_was_dropped_comes_beside_the_rows(self, runner: Runner) -> None:
        (result,) = results(runner, "drop it is torn")
        assert isinstance(result, ItemRows)
        assert rows(result) == [{"text": "kept"}]
        ((what, reason, kind),) = [(d.what, d.reason, d.kind) for d in result.dropped]
        assert (what, reason, kind) == ("page 2", "it is torn", "page")

    def test_every_item_of_many_is_answered_once(self, make: Make) -> None:
        texts = [f"say {n}" for n in range(200)]
        found = results(make(processes=2), *texts)
        assert [fields["text"] for result in found for fields in rows(result)] == [f"{n}" for n in range(200)]

    def test_files_go_in_and_come_out_whole(self, runner: Runner, tmp_path: Path) -> None:
        sizes = {"small": 1000, "large": 40_000_000, "empty": 0}
        items = []
        for name, size in sizes.items():
            (tmp_path / name).write_bytes(name.encode() * (size // len(name)))
            items.append(item("read", name, file=tmp_path / name))
        for result in runner.map(EXTRACTOR, {}, items):
            data = (tmp_path / result.item_id).read_bytes()
            ((found),) = rows(result)
            assert (found["size"], found["sha256"]) == (len(data), sha256(data).hexdigest())

    def test_files_of_rows_are_there_until_the_next_result(self, runner: Runner) -> None:
        size, paths = 20_000_000, set[Path]()
        for result in runner.map(EXTRACTOR, {}, [item(f"files {size}", f"{n}") for n in range(3)]):
            assert isinstance(result, ItemRows), result
            assert not any(path.exists() for path in paths)
            made = [row.artifacts["made_url"] for row in result.rows]
            assert [artifact.read() == b"f" * size for artifact in made] == [True, True]
            assert [artifact.role for artifact in made] == ["artifact", "artifact"]
            assert [row.artifacts["thumbnail_url"].data for row in result.rows] == [b"jpeg", b"jpeg"]
            paths = {Path(artifact.path or "") for artifact in made}
        assert not any(path.exists() for path in paths)

    def test_an_extractor_is_opened_once_for_its_parameters(self, runner: Runner) -> None:
        first = [rows(results(runner, *["opened"] * 40)[n])[0] for n in (0, 39)]
        again = [rows(results(runner, "opened")[0])[0]]
        assert len({(fields["pid"], fields["opened"]) for fields in first + again}) == 1
        (other,) = rows(results(runner, "opened", colour="red")[0])
        assert (other["pid"], other["opened"]) != (first[0]["pid"], first[0]["opened"])

    def test_models_of_plugins_are_known_to_its_processes(self, runner: Runner) -> None:
        (result,) = results(runner, "embed abba")
        assert isinstance(result, ItemRows), result
        assert result.rows[0].vectors["conduct_letters"][:3].tolist() == [2, 2, 0]

    def test_several_threads_share_it(self, make: Make) -> None:
        runner, found = make(processes=2), list[list[ItemResult]]()
        work = [
            threading.Thread(target=lambda n=n: found.append(results(runner, *[f"say {n}"] * 50))) for n in range(3)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        texts = [{fields["text"] for result in call for fields in rows(result)} for call in found]
        assert sorted(texts, key=str) == [{"0"}, {"1"}, {"2"}]

    # Files that are not here yet

    @pytest.mark.parametrize("processes", [1, 2])
    def test_files_that_items_lack_are_here_only_while_they_are_needed(self, make: Make, processes: int) -> None:
        cellar = Cellar()
        work = make(processes=processes).map(EXTRACTOR, {}, [lacking("read", f"{n}") for n in range(40)], bring=cellar)
        found = {result.item_id: rows(result)[0] for result in work if not isinstance(result, ItemProgress)}
        assert {name: fields["sha256"] for name, fields in found.items()} == {
            f"{n}": sha256(cellar.content(f"{n}")).hexdigest() for n in range(40)
        }
        assert sorted(cellar.brought) == sorted(f"{n}" for n in range(40))
        assert cellar.most <= AHEAD + 4 * processes
        assert cellar.here() == 0

    def test_an_item_whose_file_cannot_be_had_fails_alone(self, runner: Runner) -> None:
        items = [lacking("read", "a"), lacking("read", "gone"), item("say b", "b"), lacking("read", "away")]
        cellar = Cellar()
        found = {r.item_id: r for r in runner.map(EXTRACTOR, {}, items, bring=cellar)}
        for name, permanent in (("gone", True), ("away", False)):
            failure = found[name]
            assert isinstance(failure, ItemFailure)
            assert (failure.phase, failure.permanent, failure.reason) == ("fetch", permanent, f"{name}: no such file")
        assert rows(found["a"])[0]["size"] == len(cellar.content("a"))
        assert rows(found["b"])[0]["text"] == "b"
        assert cellar.here() == 0

    def test_a_store_that_is_away_ends_the_call_and_leaves_no_file(self, runner: Runner) -> None:
        items, cellar = [lacking("read", name) for name in ("a", "store away", "b")], Cellar()
        with pytest.raises(UnavailableError, match="the store is away"):
            list(runner.map(EXTRACTOR, {}, items, bring=cellar))
        until = time.monotonic() + 120
        while cellar.here() and time.monotonic() < until:  # what was on its way comes, and goes
            time.sleep(0.02)
        assert cellar.here() == 0
        assert rows(results(runner, "say x")[0])[0]["text"] == "x"

    def test_the_file_of_an_item_that_killed_its_process_is_brought_again_and_goes(self, runner: Runner) -> None:
        items, cellar = [lacking("leave 9", "bad"), *(lacking("read", f"{n}") for n in range(12))], Cellar()
        found = {r.item_id: r for r in runner.map(EXTRACTOR, {}, items, bring=cellar)}
        failure = found["bad"]
        assert isinstance(failure, ItemFailure)
        assert failure.phase == "crash"
        assert all(rows(found[f"{n}"])[0]["size"] == len(cellar.content(f"{n}")) for n in range(12))
        assert set(cellar.brought) == {"bad", *(f"{n}" for n in range(12))}
        assert cellar.here() == 0

    def test_items_that_lack_files_need_somebody_who_brings_them(self, runner: Runner) -> None:
        with pytest.raises(ValueError, match="nothing is given that brings them"):
            list(runner.map(EXTRACTOR, {}, [lacking("read", "a")]))

    # What goes wrong

    @pytest.mark.parametrize(
        ("text", "reason", "permanent"),
        [
            ("fail not today", "not today", True),
            ("fail later", "later", False),
            ("stumble here", "ValueError: broken here", True),
            ("away", "the model server is away", False),
        ],
    )
    def test_an_item_that_fails_fails_alone(self, runner: Runner, text: str, reason: str, permanent: bool) -> None:
        before, failure, after = results(runner, "say a", text, "say b")
        assert isinstance(failure, ItemFailure)
        assert (reason in failure.reason, failure.phase, failure.permanent) == (True, "extract", permanent)
        assert [rows(before)[0]["text"], rows(after)[0]["text"]] == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "phase"), [("leave 9", "crash"), ("crash", "crash"), ("hang", "timeout"), ("swell", "memory")]
    )
    def test_an_item_that_ends_its_process_fails_alone(self, make: Make, text: str, phase: str) -> None:
        runner = make(item_timeout_s=2.0 if phase == "timeout" else 60.0)
        found = results(runner, "say a", "say b", text, "say c")
        failure = found[2]
        assert isinstance(failure, ItemFailure)
        assert (failure.phase, failure.permanent) == (phase, True)
        assert [rows(found[n])[0]["text"] for n in (0, 1, 3)] == ["a", "b", "c"]

    def test_an_item_that_cannot_be_sent_fails_alone(self, runner: Runner) -> None:
        bad = Item("bad", {"text": [Source(value="say x")]}, {"f": lambda: 1})
        found = {r.item_id: r for r in runner.map(EXTRACTOR, {}, [item("say a", "a"), bad, item("say b", "b")])}
        assert isinstance(found["bad"], ItemFailure)
        assert found["bad"].phase == "input"
        assert [rows(found[name])[0]["text"] for name in "ab"] == ["a", "b"]

    def test_an_extractor_that_nobody_has_is_not_found(self, runner: Runner) -> None:
        with pytest.raises(NotFoundError, match="nothing_v9"):
            list(runner.map("nothing_v9", {}, [item("say x")]))
        assert rows(results(runner, "say x")[0])[0]["text"] == "x"

    def test_parameters_it_does_not_take_are_refused(self, runner: Runner) -> None:
        with pytest.raises(ValidationError, match=r"conduct_v1.*size"):
            results(runner, "say x", size=3)

    def test_a_missing_model_is_an_error_that_says_so(self, runner: Runner) -> None:
        with pytest.raises(UnavailableError, match="model 'm' is missing; install it"):
            results(runner, "say x", opening="fail")
        assert rows(results(runner, "say x")[0])[0]["text"] == "x"

    def test_an_extractor_that_dies_opening_blames_no_item(self, runner: Runner) -> None:
        with pytest.raises(UnavailableError, match="exit code 7"):
            results(runner, "say x", "say y", opening="exit")
        assert rows(results(runner, "say x")[0])[0]["text"] == "x"

    # The desk

    def test_what_is_remembered_is_found_again(self, runner: Runner) -> None:
        desk, key = ShelfDesk(), "ab" * 32
        found = [rows(result)[0]["found"] for result in results(runner, f"once {key}", f"once {key}", desk=desk)]
        assert (found, desk.kept) == ([False, True], {key: b"made"})

    def test_the_desk_is_asked_across_processes(self, runner: Runner) -> None:
        address = "https://shelf.test/slow"
        fetched, answered = results(runner, f"fetch {address}", "ask who are you", desk=ShelfDesk())
        assert rows(fetched) == [{"status": 200, "size": 1000, "url": address}]
        assert rows(answered) == [{"text": "answer to who are you"}]

    @pytest.mark.parametrize(
        ("path", "reason", "permanent"), [("busy", "rate is used up", False), ("refused", "a private address", True)]
    )
    def test_what_the_desk_refuses_fails_the_item(
        self, runner: Runner, path: str, reason: str, permanent: bool
    ) -> None:
        failure, after = results(runner, f"fetch https://shelf.test/{path}", "say b", desk=ShelfDesk())
        assert isinstance(failure, ItemFailure)
        assert (reason in failure.reason, failure.permanent) == (True, permanent)
        assert rows(after)[0]["text"] == "b"

    def test_without_a_desk_nothing_is_fetched(self, runner: Runner) -> None:
        (failure,) = results(runner, "fetch https://shelf.test/")
        assert isinstance(failure, ItemFailure)
        assert "fetches no addresses" in failure.reason

    def test_an_item_that_says_it_is_alive_may_take_longer(self, make: Make) -> None:
        runner = make(item_timeout_s=2.0)
        found = list(runner.map(EXTRACTOR, {}, [item("labour 40")]))
        assert rows(found[-1]) == [{"text": "40"}]
        (failure,) = results(runner, "sleep 6")
        assert isinstance(failure, ItemFailure)
        assert failure.phase == "timeout"

    # The end

    def test_a_caller_that_leaves_early_ends_the_work(self, runner: Runner) -> None:
        work = runner.map(EXTRACTOR, {}, [item("say a"), item("sleep 60")])
        assert next(work).item_id == "say a"
        work.close()  # type: ignore[attr-defined]
        assert rows(results(runner, "say b")[0])[0]["text"] == "b"

    def test_closing_ends_the_work_and_says_so(self, make: Make) -> None:
        runner, caught = make(), list[BaseException]()

        def work() -> None:
            try:
                results(runner, "say a", "sleep 60")
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        runner.close()
        thread.join(120)
        assert [type(error) for error in caught] == [RunnerClosedError]
        with pytest.raises(RunnerClosedError):
            results(runner, "say b")

    def test_it_says_what_it_is(self, make: Make) -> None:
        info = make(processes=2).describe()
        assert info.processes == 2
        assert info.kind
