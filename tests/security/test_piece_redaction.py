"""Secrets in a text that comes in pieces: however it is cut, what is shown is the masked whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel.redaction import PieceRedactor, Redactor

LETTERS = st.text("abc/ %", max_size=40)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(st.text("abc/ %", min_size=4, max_size=8), max_size=3), st.lists(LETTERS, max_size=12), st.data())
def test_pieces_show_what_the_whole_would_show(secrets: list[str], texts: list[str], data: st.DataObject) -> None:
    parts = [data.draw(st.sampled_from([text, *secrets])) for text in texts]
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    hide = Redactor(secrets)
    held = PieceRedactor(hide)
    assert "".join(held.piece(piece) for piece in pieces) + held.rest() == hide.text(whole)


def test_without_secrets_nothing_waits() -> None:
    held = PieceRedactor(Redactor([]))
    assert [held.piece(piece) for piece in ("a", "bc", "")] == ["a", "bc", ""]
    assert held.rest() == ""
