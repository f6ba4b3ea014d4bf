"""Search quality on questions whose answers are known, and how near the index's BM25 is to an exact one.

The labelled set is made of the docstrings of numpy, scipy, scikit-learn and the standard library, which are installed
here anyway: the question is a docstring's first sentence, the one right answer the rest of that docstring, without the
name it documents. Sources are parsed, not imported.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks._data import texts
from benchmarks._engine import Retriever
from benchmarks._report import OUT, Report
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.lexical import Bm25
from mediatheca.kernel.metrics import judge, ndcg
from mediatheca.kernel.search import TextQuery
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import build_catalog
from mediatheca.stages import CollectionView
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex

MODEL = "all_minilm_l6_v2"
URI = f"mixpeek://text_extractor@v1/{MODEL}"
COLLECTION = "col_docstrings"
DOCUMENTS = 1_200
QUESTIONS = 300
EXACT = 10_000
"""Texts of the comparison with an exact BM25."""
PACKAGES = ("numpy", "scipy", "sklearn")
STDLIB = ("statistics", "heapq", "bisect", "textwrap", "shutil", "difflib", "random", "argparse", "zipfile", "inspect")


@dataclass(frozen=True)
class Labelled:
    """A question and the text that answers it."""

    question: str
    answer: str


def _sources() -> Iterator[Path]:
    for name in PACKAGES:
        spec = find_spec(name)
        if spec and spec.submodule_search_locations:
            root = Path(spec.submodule_search_locations[0])
            yield from (path for path in sorted(root.rglob("*.py")) if "tests" not in path.parts)
    library = Path(sysconfig.get_paths()["stdlib"])
    yield from (library / f"{name}.py" for name in STDLIB)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found = ast.get_docstring(node)
            if found:
                yield node.name, found


@cache
def labelled() -> tuple[Labelled, ...]:
    """Docstrings with a first sentence of 5 to 25 words and 40 words or more after it; each question once."""
    made: dict[str, Labelled] = {}
    for path in _sources():
        for name, text in _docstrings(path):
            head, _, body = text.partition("\n\n")
            body = re.sub(rf"\b{re.escape(name)}\b", "", body)
            answer = " ".join(body.split())[:2000]
            question = " ".join(head.split())
            if 5 <= len(question.split()) <= 25 and len(answer.split()) >= 40:
                made.setdefault(question, Labelled(question, answer))
    chosen = list({one.answer: one for one in made.values()}.values())
    random.Random(11).shuffle(chosen)
    return tuple(chosen[:DOCUMENTS])


def _ident(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def _misspelt(text: str, generator: random.Random) -> str:
    """Two of the longer words with a typo each: two neighbours swapped, or a letter left out."""
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) >= 6 and word.isalpha()]
    for place in generator.sample(long, min(2, len(long))):
        word, at = words[place], generator.randrange(1, len(words[place]) - 2)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words[place] = swapped if generator.random() < 0.5 else word[:at] + word[at + 1 :]
    return " ".join(words)


def run() -> Report:
    """nDCG@10 of each way to search, then of misspelt questions, then the agreement of BM25."""
    report = Report("quality")
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        index = EdgeIndex(Path(folder) / "index")
        _searches(report, index)
        _agreement(report, index)
        index.close()
    return report


def _searches(report: Report, index: EdgeIndex) -> None:
    models = build_catalog(ModelSettings(OUT / "models"))
    model = models.text(MODEL)
    vectors = VectorIndex("text", URI, model.info.dimensions, model=MODEL, weights=model.info.weights)
    view = CollectionView(COLLECTION, "docstrings", (vectors,), {"text": "text"})
    index.ensure(IndexSpec(COLLECTION, (vectors,), {"text": "text"}))
    rows = labelled()
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        made = model.embed_texts([row.answer for row in part], query=False)
        index.upsert(
            COLLECTION,
            [
                Document(_ident(start + n), COLLECTION, {"text": row.answer}, {"text": made[n]}, write_seq=1)
                for n, row in enumerate(part)
            ],
        )
    asked = [(row.question, _ident(number)) for number, row in enumerate(rows[:QUESTIONS])]
    scores = {name: _score(Retriever(index, view, models, stages), asked) for name, stages in _ways().items()}
    best = max(scores["lexical"], scores["dense"])
    for name, score in scores.items():
        report.add(f"nDCG@10, {name}", score, "", f">= {best:.4f}" if name == "hybrid (rrf)" else "")
    generator = random.Random(3)
    typos = [(_misspelt(question, generator), ident) for question, ident in asked]
    for name in ("lexical", "lexical, no typo tolerance", "dense", "hybrid (rrf)"):
        score = _score(Retriever(index, view, models, _ways()[name]), typos)
        report.add(f"nDCG@10 with two typos a question, {name}", score, "")


def _ways() -> dict[str, list[dict[str, Any]]]:
    query = "{{INPUT.query}}"
    dense = {"feature_uri": URI, "query": query, "top_k": 100}
    lexical = {"feature_uri": URI, "query": query, "top_k": 100, "lexical": True}

    def search(*searches: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"stage_id": "feature_search", "parameters": {"searches": list(searches), "final_top_k": 50, **more}}

    hybrid = search(dense, lexical)
    return {
        "lexical": [search(lexical)],
        "lexical, no typo tolerance": [search({**lexical, "fuzziness": 0})],
        "dense": [search(dense)],
        "hybrid (rrf)": [hybrid],
        "hybrid (dbsf)": [search(dense, lexical, fusion="dbsf")],
        "hybrid + rerank (lexical_dense: no cross-encoder is installed)": [hybrid, {"stage_id": "rerank"}],
        "dense + rerank (lexical_dense)": [search(dense), {"stage_id": "rerank"}],
    }


def _score(retriever: Retriever, asked: Sequence[tuple[str, str]]) -> float:
    found = [ndcg(judge(retriever.ids({"query": question}), {right: 1}), 10) for question, right in asked]
    return sum(found) / len(found)


def _agreement(report: Report, index: EdgeIndex) -> None:
    """Share of the exact BM25's first ten that the index finds, after a fifth of the texts changed or went."""
    collection = "col_words"
    index.ensure(IndexSpec(collection, (), {"text": "text"}))
    held = dict(enumerate(texts(EXACT, words=20, seed=31)))
    _write(index, collection, held, 1)
    changed = dict(zip(range(0, EXACT, 10), texts(EXACT // 10, words=30, seed=32), strict=True))
    _write(index, collection, changed, 2)
    held |= changed
    gone = range(5, EXACT, 10)
    index.delete(collection, [_ident(number) for number in gone])
    for number in gone:
        del held[number]
    counted = {number: index.words(text) for number, text in held.items()}
    shares, off = [], 0.0
    for question in texts(100, words=3, seed=33):
        exact: Bm25[int] = Bm25(index.words(question))
        for number, words in counted.items():
            exact.add(number, words)
        ranked = sorted(exact.scores().items(), key=lambda entry: (-entry[1], _ident(entry[0])))[:10]
        hits = index.query(collection, TextQuery(question, 10))
        shares.append(len({hit.document_id for hit in hits} & {_ident(n) for n, _ in ranked}) / max(len(ranked), 1))
        off = max([off, *(abs(h.score - s) / s for h, (_, s) in zip(hits, ranked, strict=True))])
    report.add("BM25: share of the exact first ten", sum(shares) / len(shares), "", ">= 0.99")
    report.add("BM25: largest relative error of a score", off, "", "<= 0.001")


def _write(index: EdgeIndex, collection: str, held: dict[int, str], seq: int) -> None:
    index.upsert(collection, [Document(_ident(n), collection, {"text": t}, {}, write_seq=seq) for n, t in held.items()])


if __name__ == "__main__":
    print(run().table())
