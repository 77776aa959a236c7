"""What a score says of its halves, wherever it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from agent.records import Score


@pytest.mark.parametrize(
    ("changes", "one_pass", "words"),
    [
        ({}, False, ""),
        ({"halves": "passes"}, False, "two passes"),
        ({"halves": "passes", "thinned": 3.456}, False, "two passes (halves thinned from both: 3.46 bit/Å²)"),
        ({"halves": "thinned"}, True, "thinned from one pass"),
        ({"halves": "positions"}, True, "every other position of one pass"),
    ],
)
def test_a_score_says_what_its_halves_are(changes: dict[str, Any], one_pass: bool, words: str) -> None:
    score = Score(value=3.0, sd=0.2, **changes)
    assert score.one_pass == one_pass
    assert score.halves_text() == words
    assert Score.model_validate_json(score.model_dump_json()) == score
