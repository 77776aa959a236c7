"""A text file is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.storage import atomic
from agent.storage.atomic import atomic_write


def test_a_file_is_replaced_and_no_part_stays(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    atomic_write(path, "old")
    atomic_write(path, "new: Å")
    assert path.read_bytes() == "new: Å".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_what_stood_there_survives_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    atomic_write(path, "old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
