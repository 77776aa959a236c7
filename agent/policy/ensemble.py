"""The file of an ensemble: how good pictures are at the same settings on many simulated columns.

Settings that columns have in common: the step in Å; the part of the window 1/Δk that the geometric probe disc fills, signed as
the defocus; and the dose. `agent.twin` makes such files, `agent.policy.prior` learns from them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from agent.errors import BadInputError
from agent.policy.limits import Array
from instrument.models import Record

STEPS = (0.9, 1.5, 2.4, 3.6)
"""Å."""
PARTS = (-0.7, -0.3, -0.1, 0.1, 0.3, 0.7)
"""Of the window 1/Δk."""
DOSES = (300.0, 3000.0)
"""e/Å²."""
SHIPPED = Path(__file__).with_name("zoo.jsonl")
"""`ptychopilot twin build zoo.jsonl --first-seed 0`."""


class Member(Record):
    """A simulated column."""

    name: str
    seed: int
    specimen: str = Field(default="", description="class of what lay below it")
    column: dict[str, float] = Field(default_factory=dict, description="its numbers, for the reader")
    values: tuple[tuple[tuple[float, ...], ...], ...] = Field(
        description="information of the picture, bit/Å²: (STEPS, PARTS, DOSES)"
    )


def read_members(path: Path) -> list[Member]:
    """The columns of a file.

    Args:
        path: of the file.

    Raises:
        BadInputError: it cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"prior {path}: cannot be read ({why}); `ptychopilot twin build` writes one"
        raise BadInputError(msg) from error
    return members_in(text, path)


def members_in(text: str, path: Path) -> list[Member]:
    """The columns of a file's text.

    Args:
        text: a line a column.
        path: of the file, for messages.

    Raises:
        BadInputError: it is something else.
    """
    members = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            member = Member.model_validate(json.loads(line))
            fits = np.shape(member.values) == (len(STEPS), len(PARTS), len(DOSES))
        except (ValueError, ValidationError):
            fits = False
        if not fits:
            msg = f"prior {path}: line {number} is no simulated column; `ptychopilot twin build` writes such files"
            raise BadInputError(msg)
        members.append(member)
    return members


def lattice() -> Array:
    """(m, 3) the settings of a member's values in the order of `np.ravel`: ln step, part of the window, ln dose."""
    grid = np.meshgrid(np.log(STEPS), PARTS, np.log(DOSES), indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1)


def is_usable(values: Array) -> bool:
    """Whether a member says anything: finite values that are not all nearly 0.

    Args:
        values: (STEPS, PARTS, DOSES) bit/Å².
    """
    return bool(np.isfinite(values).all()) and math.isfinite(float(values.mean())) and float(values.mean()) > 0.05
