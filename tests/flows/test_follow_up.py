"""What was written is followed up: by each phase once, in their order, whatever fails in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from datapath_app import Application
from datapath_plugins.hashed import URI
from datapath_shop import Shop, content, ok
from quiet_app import QuietApp

from mediatheca.flows.documents import Change
from mediatheca.flows.enrichment.writer import Patch, apply_patches
from mediatheca.flows.follow_up import IDS, FollowUp, Outcome, Phase, follow_up_died, note, post_processing
from mediatheca.flows.grouping.assign import run_cluster_applications
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import JobCancelledError, Run
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import UnavailableError


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[QuietApp]:
    made = QuietApp(tmp_path)
    yield made
    made.close()


class Recorded:
    """Phases that write down what they were given; `faults` are raised in turn."""

    def __init__(self, *names: str, wanted: bool = True) -> None:
        self.seen: list[tuple[str, list[str]]] = []
        self.faults: dict[str, list[Exception]] = {}
        self.phases = [self._phase(number, name, wanted) for number, name in enumerate(names, 1)]

    def _phase(self, number: int, name: str, wanted: bool) -> Phase:
        def run(services: Services, run: Run, follow: FollowUp) -> Outcome:
            self.seen.append((name, follow.document_ids))
            if self.faults.get(name):
                raise self.faults[name].pop(0)
            return Outcome(done=len(follow.document_ids))

        return Phase(number, name, lambda tx, collection: wanted, run)


def test_each_phase_sees_what_was_written_once_and_in_order(quiet: QuietApp) -> None:
    two = Recorded("first", "second")
    spine = quiet.dispatcher(two.phases[::-1])
    quiet.write("a", "b")
    spine.tick()
    quiet.write("c")
    spine.tick()
    (job,) = quiet.rows("jobs", kind="follow_up")
    assert job["lock_key"] == f"follow:{quiet.shop.collection}"
    quiet.follow(two.phases[::-1])
    assert two.seen == [("first", ["a", "b", "c"]), ("second", ["a", "b", "c"])]
    (row,) = quiet.rows("follow_ups")
    assert (row["status"], row["document_ids"], row["body"]["documents"]) == ("done", [], 3)
    assert row["body"]["phases"]["second"] == {"done": 3, "skipped": 0, "failed": 0, "problems": []}
    assert quiet.rows("jobs", kind="follow_up")[0]["status"] == "done"


def test_a_write_during_the_work_gets_a_job_of_its_own(quiet: QuietApp) -> None:
    one = Recorded("only")
    spine = quiet.dispatcher(one.phases)
    quiet.write("a")
    spine.tick()
    run = quiet.claim("follow_up")
    quiet.write("b")
    spine.tick()
    assert sorted(row["status"] for row in quiet.rows("jobs", kind="follow_up")) == ["ready", "running"]
    quiet.services.queue.release(run.job)


def test_documents_that_the_index_has_yet_to_take_count_for_a_run_of_their_cluster(quiet: QuietApp) -> None:
    body = {
        "cluster_name": "topics",
        "collection_ids": [quiet.shop.collection],
        "vector_config": {"feature_uris": [str(URI)], "clustering_method": "kmeans"},
        "auto_execute_on_batch": True,
        "auto_execute_min_documents": 2,
    }
    cluster = ok(quiet.client.post("/v1/clusters", json=body))["cluster_id"]
    quiet.write("a")
    late = Change("b", lambda held: Document("b", quiet.shop.collection, {"text": "late"}))
    quiet.services.writer.write(quiet.scope, "", quiet.collection, [late], wait=False)
    with quiet.db.begin(quiet.scope) as tx:
        note(tx, quiet.shop.collection, ["a", "b"])
    follow = FollowUp("fol_1", quiet.scope, quiet.collection, ["a", "b"])
    outcome = run_cluster_applications(quiet.services, quiet.claim("follow_up"), follow)
    assert (outcome.done, outcome.problems) == (1, [])
    assert [row["cluster_id"] for row in quiet.rows("cluster_runs")] == [cluster]


def test_what_no_phase_wants_leaves_no_trace(quiet: QuietApp) -> None:
    nobody = Recorded("only", wanted=False)
    spine = quiet.dispatcher(nobody.phases)
    quiet.write("a")
    spine.tick()
    assert quiet.rows("follow_ups") == quiet.rows("jobs", kind="follow_up") == []


def test_an_enrichment_is_no_news(quiet: QuietApp) -> None:
    one = Recorded("only")
    quiet.write("a")
    spine = quiet.dispatcher(one.phases)
    (held,) = quiet.get("a")
    patch = Patch("a", {"label": "x"}, {}, held.write_seq)
    assert apply_patches(quiet.services, quiet.scope, quiet.collection, [patch], "taxonomy:t").written == 1
    spine.tick()
    assert quiet.rows("follow_ups") == []


def test_a_phase_that_fails_is_recorded_and_the_next_goes_on(quiet: QuietApp) -> None:
    two = Recorded("first", "second")
    two.faults["first"] = [KeyError("oops")]
    spine = quiet.dispatcher(two.phases)
    quiet.write("a")
    spine.tick()
    quiet.follow(two.phases)
    assert [name for name, _ in two.seen] == ["first", "second"]
    (problem,) = quiet.rows("follow_ups")[0]["body"]["phases"]["first"]["problems"]
    assert problem["what"] == "first"
    assert "KeyError" in problem["reason"]
    assert "oops" not in problem["reason"]  # what a library says is for the log
    assert problem["next_step"]


def test_after_a_crash_only_what_was_not_done_is_repeated(quiet: QuietApp) -> None:
    three = Recorded("first", "second", "third")
    three.faults["second"] = [JobCancelledError("killed")]
    spine = quiet.dispatcher(three.phases)
    quiet.write("a")
    spine.tick()
    run = quiet.claim("follow_up")
    with pytest.raises(JobCancelledError):
        from mediatheca.flows.follow_up import run_follow_ups

        run_follow_ups(quiet.services, three.phases, run)
    quiet.services.queue.release(run.job)
    quiet.follow(three.phases)
    assert [name for name, _ in three.seen] == ["first", "second", "second", "third"]


def test_what_is_away_is_tried_again_and_recorded_at_the_last_attempt(quiet: QuietApp) -> None:
    one = Recorded("only")
    one.faults["only"] = [UnavailableError("the model does not answer")] * 10
    spine = quiet.dispatcher(one.phases)
    quiet.write("a")
    spine.tick()
    for _ in range(4):
        with pytest.raises(UnavailableError):
            quiet.follow(one.phases)
        with quiet.db.begin(quiet.scope) as tx:
            tx.update("jobs", {"kind": "follow_up"}, {"status": "ready", "lease_token": None})
    quiet.follow(one.phases)
    (row,) = quiet.rows("follow_ups")
    assert row["status"] == "done"
    assert row["body"]["phases"]["only"]["problems"][0]["reason"] == "the model does not answer"


def test_a_worker_that_lost_its_job_records_nothing(quiet: QuietApp) -> None:
    one = Recorded("only")
    spine = quiet.dispatcher(one.phases)
    quiet.write("a")
    spine.tick()
    run = quiet.claim("follow_up")
    with quiet.db.begin(quiet.scope) as tx:
        tx.update("jobs", {"job_id": run.job.job_id}, {"lease_token": "another"})
    with pytest.raises(JobCancelledError):
        from mediatheca.flows.follow_up import run_follow_ups

        run_follow_ups(quiet.services, one.phases, run)
    assert [row["phase"] for row in quiet.rows("follow_ups")] == [0]


def test_many_documents_are_cut_and_batches_are_kept_apart(quiet: QuietApp) -> None:
    one = Recorded("only")
    with quiet.db.begin(quiet.scope) as tx:
        note(tx, quiet.shop.collection, [f"x{number}" for number in range(IDS + 5)], "btch_1")
        note(tx, quiet.shop.collection, ["y1"], "btch_2")
        note(tx, quiet.shop.collection, ["y2", "y1"], "btch_2")
    quiet.follow(one.phases)
    assert [len(ids) for _, ids in one.seen] == [IDS, 5, 2]
    with quiet.db.read(quiet.scope) as tx:
        first, second = post_processing(tx, "btch_1"), post_processing(tx, "btch_2")
    assert (first["done"], first["open"], first["phases"]["only"]["done"]) == (IDS + 5, 0, IDS + 5)
    assert second["done"] == 2


def test_a_collection_that_is_gone_needs_no_follow_up(quiet: QuietApp) -> None:
    one = Recorded("only")
    spine = quiet.dispatcher(one.phases)
    quiet.write("a")
    spine.tick()
    ok(quiet.client.delete(f"/v1/retrievers/{quiet.shop.retriever}"))
    ok(quiet.client.delete(f"/v1/collections/{quiet.shop.collection}"))
    quiet.follow(one.phases)
    assert one.seen == []
    assert all(row["status"] == "done" for row in quiet.rows("follow_ups"))


def test_a_dead_job_says_why_on_what_it_left(quiet: QuietApp) -> None:
    one = Recorded("only")
    spine = quiet.dispatcher(one.phases)
    quiet.write("a")
    spine.tick()
    follow_up_died(quiet.services, quiet.claim("follow_up").job, "the worker stopped answering")
    (row,) = quiet.rows("follow_ups")
    assert (row["status"], row["body"]["error"]) == ("failed", "the worker stopped answering")


def test_an_ingest_names_the_documents_it_wrote(application: Application, shop: Shop) -> None:
    shop.create([content(number, 1) for number in range(5)])
    batch = shop.process()["batch_id"]
    with application.db.read(application.scope(shop)) as tx:
        told = [row["payload"] for row in tx.rows("events", {"type": "collection.documents.written"})]
    assert {payload["batch_id"] for payload in told} == {batch}
    assert {ident for payload in told for ident in payload["document_ids"]} == {
        document["document_id"] for document in shop.documents()
    }
    assert all(payload["write_seq"] > 0 and payload["documents"] == len(payload["document_ids"]) for payload in told)
