"""One tier of a batch at a time: stop it, run it again, put it right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Response

from mediatheca.api.deps import Write, Writer, answer
from mediatheca.flows.ingest.progress import tier_tasks
from mediatheca.flows.ingest.retry import retry_tier
from mediatheca.flows.ingest.tier_actions import cancel_tier, find_tier, heal_tier, tier_of
from mediatheca.kernel.errors import NotFoundError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Row, Tx

router = APIRouter(tags=["batches"])
_TIER = "/buckets/{bucket}/batches/{batch_id}/tiers/{tier_num}"
Number = Annotated[int, Path(ge=0, le=1_000_000)]
Reason = Annotated[str, Query(max_length=500)]


class HealSpec(Spec):
    """`kill_duplicates`, `detect_stuck` or `sync_status`."""

    action: Literal["kill_duplicates", "detect_stuck", "sync_status"]


class TierRetrySpec(Spec):
    """There are no resources to choose here: a worker's memory is a setting of the installation."""


def _batch(tx: Tx, bucket: str, batch_id: str, number: int) -> Row:
    return find_tier(tx, batch_id, tx.get("bucket", bucket).id, number)


def _answer(tx: Tx, batch_id: str, bucket: str, number: int, **more: Any) -> Response:
    batch = _batch(tx, bucket, batch_id, number)
    (tier,) = tier_tasks(tx, batch, number=number)
    return answer({"batch_id": batch_id, "batch_status": batch["status"], "tier_num": number, "tier": tier, **more})


@router.post(f"{_TIER}/cancel", operation_id="cancel_tier", response_model=None)
def cancel(bucket: str, batch_id: str, tier_num: Number, tx: Write, reason: Reason = "canceled by request") -> Response:
    """Stop one tier. Written documents stay; the tiers behind it go on with what is there."""
    outcome = cancel_tier(tx, _batch(tx, bucket, batch_id, tier_num), tier_num, reason)
    return _answer(tx, batch_id, bucket, tier_num, cancellation=outcome, **outcome)


@router.post(f"{_TIER}/jobs/{{job_id}}/cancel", operation_id="cancel_tier_job", response_model=None)
def cancel_job(
    bucket: str, batch_id: str, tier_num: Number, job_id: str, tx: Write, reason: Reason = "canceled by request"
) -> Response:
    """Stop one collection of a tier; `extractor_jobs[].ray_job_id` of the tier is its name."""
    batch = _batch(tx, bucket, batch_id, tier_num)
    if job_id not in tier_of(batch, tier_num):
        raise NotFoundError("job", job_id)
    outcome = cancel_tier(tx, batch, tier_num, reason, [job_id])
    return _answer(tx, batch_id, bucket, tier_num, cancellation=outcome, **outcome)


@router.post(f"{_TIER}/retry", operation_id="retry_tier", response_model=None)
def retry(
    bucket: str, batch_id: str, tier_num: Number, tx: Write, caller: Writer,
    spec: Annotated[TierRetrySpec | None, Body()] = None,
) -> Response:  # fmt: skip
    """Run what failed, was canceled or was skipped in a tier again, and what is made from it."""
    notes = notes_on(caller, spec or TierRetrySpec())
    batch = _batch(tx, bucket, batch_id, tier_num)
    count = retry_tier(tx, batch, tier_num, caller.services.settings.chunk_size)
    return _answer(tx, batch_id, bucket, tier_num, retried_object_count=count, **notes)


@router.post(f"{_TIER}/heal", operation_id="heal_tier", response_model=None)
def heal(bucket: str, batch_id: str, tier_num: Number, spec: HealSpec, tx: Write) -> Response:
    """Put right what hangs. Nothing of it is needed in normal operation: workers that die are noticed by themselves."""
    done = heal_tier(tx, _batch(tx, bucket, batch_id, tier_num), tier_num, spec.action)
    return _answer(tx, batch_id, bucket, tier_num, action=spec.action, **done)
