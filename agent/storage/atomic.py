"""A file that has its name is whole: it is written as `NAME.part`, put on the disk and renamed."""

from __future__ import annotations

import os
from pathlib import Path


def part_of(path: Path) -> Path:
    """The name of a file while it is being written."""
    return path.with_name(path.name + ".part")


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file in one step: a reader finds the old content or the new, after a power cut as well.

    Args:
        path: the file to write or to replace; its folder must exist.
        content: text is stored as UTF-8.

    Raises:
        OSError: it cannot be written; what stood there before is untouched and no part stays behind.
    """
    part = part_of(path)
    try:
        # A file name in a text may be no text; escaped, it is still valid JSON.
        part.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
        publish(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_private(path: Path, content: str) -> None:
    """Write a file that nobody but this user can read, and that is gone with the process that it belongs to.

    Args:
        path: what stood there before is replaced.
        content: stored as UTF-8.
    """
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)


def publish(path: Path) -> None:
    """Put the written `part_of(path)` on the disk and give it its name."""
    part = part_of(path)
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
