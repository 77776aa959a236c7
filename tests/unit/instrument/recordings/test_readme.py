"""The example of the room's README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import instrument.recordings
from instrument.recordings import FORMATS


def test_a_format_is_added_as_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(instrument.recordings.__file__).with_name("README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    known = list(FORMATS)
    try:
        for block in blocks:
            exec(block, {"__name__": "readme"})  # noqa: S102
    finally:
        FORMATS[:] = known
