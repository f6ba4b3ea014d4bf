"""Golden data sets from annotations: verdicts of people or models on the documents of recorded answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson

from mediatheca.flows.evaluation.datasets import MAX_DOCUMENTS, MAX_QUERIES, GenerateSpec, QuerySpec, store_generated
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.metrics import MAX_GRADE
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row, Tx

MAX_ROWS = 100_000
"""Annotations looked at, the newest."""
GRADES: Mapping[str, int] = {
    **dict.fromkeys(("perfect", "highly_relevant", "excellent"), 5),
    **dict.fromkeys(("relevant", "correct", "good", "positive", "approved", "yes", "true", "true_positive"), 3),
    **dict.fromkeys(("partially_relevant", "partial", "somewhat_relevant", "fair"), 1),
    **dict.fromkeys(("not_relevant", "irrelevant", "incorrect", "wrong", "bad", "negative", "rejected"), 0),
    **dict.fromkeys(("no", "false", "false_positive"), 0),
}
"""What common labels are worth; `payload.grade` and `label_grades` go before."""


def annotated_dataset(tx: Tx, retriever: Record, spec: GenerateSpec) -> Record:
    """A data set of the annotations on answers of this retriever: one query for each question that was asked.

    A document's grade is the mean of its verdicts, weighted by how sure they are.

    Raises:
        BadRequestError: no annotation can be used; the message says why.
    """
    where = {"retriever_id": retriever.id, "created_at": Cmp(">=", clock.now() - timedelta(days=spec.lookback_days))}
    rows = tx.rows("annotations", where, order=("-annotation_id",), limit=MAX_ROWS)
    questions = _questions(tx, rows)
    left_out: Counter[str] = Counter()
    groups: dict[bytes, list[tuple[Row, int]]] = {}
    for row in rows:
        grade, question = _grade(row, spec.label_grades), _question(row, questions)
        reason = _reason(row, grade, question, spec)
        if reason or grade is None or question is None:
            left_out[reason] += 1
            continue
        groups.setdefault(orjson.dumps(question, option=orjson.OPT_SORT_KEYS), []).append((row, grade))
    judged = [(orjson.loads(key), _judgments(found, spec.min_annotations)) for key, found in groups.items()]
    queries = [_query(n, inputs, grades) for n, (inputs, grades) in enumerate(judged, start=1) if grades]
    if not any(query.relevant_documents for query in queries):
        raise BadRequestError(_nothing(retriever, len(rows), left_out, spec))
    return store_generated(tx, retriever, spec, queries[:MAX_QUERIES], {"left_out": dict(left_out)})


def _questions(tx: ReadTx, rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Execution → its inputs, where they were kept whole."""
    listed = sorted({row["body"].get("execution_id") or "" for row in rows} - {""})
    found = {}
    for start in range(0, len(listed), 500):
        where = {"execution_id": listed[start : start + 500]}
        for row in tx.rows("executions", where, columns=("execution_id", "body")):
            if not row["body"].get("cut_inputs"):
                found[row["execution_id"]] = row["body"].get("inputs") or {}
    return found


def _question(row: Row, questions: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What was asked: the annotation says so (`payload.query_input`), or the execution it is on."""
    said = (row["body"].get("payload") or {}).get("query_input")
    found = said if isinstance(said, dict) else questions.get(row["body"].get("execution_id") or "")
    return found or None


def _grade(row: Row, own: Mapping[str, int]) -> int | None:
    label = row["label"].strip().lower()
    if label in own:
        return own[label]
    said = (row["body"].get("payload") or {}).get("grade")
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MAX_GRADE:
        return said
    return GRADES.get(label.replace(" ", "_").replace("-", "_"))


def _reason(row: Row, grade: int | None, question: Any, spec: GenerateSpec) -> str:
    """Why an annotation is left out; empty when it is not."""
    if grade is None:
        return f"label '{row['label'][:60]}' has no grade"
    if question is None:
        return "the question is not known"
    sure = row["body"].get("confidence")
    return "not sure enough" if sure is not None and sure < spec.min_confidence else ""


def _judgments(found: Sequence[tuple[Row, int]], least: int) -> dict[str, int]:
    by_document: dict[str, list[tuple[int, float]]] = {}
    for row, grade in found:
        sure = row["body"].get("confidence")
        by_document.setdefault(row["document_id"], []).append((grade, 1.0 if sure is None else max(0.01, sure)))
    return {ident: _mean(verdicts) for ident, verdicts in by_document.items() if len(verdicts) >= least}


def _mean(verdicts: Sequence[tuple[int, float]]) -> int:
    """Rounded half up."""
    total = sum(weight for _, weight in verdicts)
    return int(sum(grade * weight for grade, weight in verdicts) / total + 0.5)


def _query(number: int, inputs: dict[str, Any], grades: Mapping[str, int]) -> QuerySpec:
    kept = dict(sorted(grades.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_DOCUMENTS])
    liked = [ident for ident, grade in kept.items() if grade > 0]
    return QuerySpec(query_id=f"q{number}", query_input=inputs, relevant_documents=liked, relevance_scores=kept)


def _nothing(retriever: Record, count: int, left_out: Mapping[str, int], spec: GenerateSpec) -> str:
    why = "; ".join(f"{number}: {reason}" for reason, number in sorted(left_out.items())[:10])
    return (
        f"no annotation of the last {spec.lookback_days} days on retriever '{retriever.name}' says that a document is "
        f"relevant ({count} in all{'; left out: ' + why if why else ''}); annotate with retriever_id and execution_id "
        "(or payload.query_input), and give label_grades for labels of your own"
    )
