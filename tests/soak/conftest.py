"""The small world of the integration tests, for the soak."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).parents[1] / "integration"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of faults; and the small world importable in every process."""
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.setenv("SMALL_WORLD", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(INTEGRATION), prepend=os.pathsep)
    return folder
