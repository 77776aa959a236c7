"""The small world, for tests that run campaigns in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_small_world import Server, serving

HERE = Path(__file__).parent


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of faults; and the small world importable in every process."""
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.setenv("SMALL_WORLD", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent))), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(HERE))
    return folder


@pytest.fixture
def server(tmp_path: Path, world: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running
