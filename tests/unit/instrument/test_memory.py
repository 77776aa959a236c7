"""How much memory there is, asked of the system alone: the base install has no package for it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from instrument import memory


def test_free_memory_is_what_the_system_estimates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    physical = psutil.virtual_memory().total
    assert abs(memory.free_memory() - psutil.virtual_memory().available) < 0.2 * physical
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")  # a system that does not say it
    assert memory.free_memory() == pytest.approx(physical / 2, rel=0.1)
