# SPDX-License-Identifier: GPL-3.0-or-later
"""The example in sim_instrument/README.md runs, and says what it is said to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "sim_instrument" / "README.md"


def test_the_example_in_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(block, str(README), "exec"), {})  # noqa: S102 - the README is ours
    shape, rest = capsys.readouterr().out.strip().split(") ")
    assert shape == "(4, 4, 64, 64"
    electrons, phase = map(float, re.findall(r"[\d.]+", rest))
    assert electrons == pytest.approx(2000 * 4, rel=0.03)
    assert 0.5 < phase < 10
