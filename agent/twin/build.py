"""The ensemble: what pictures of many drawn columns would be worth, at the same settings for all, in a file that can grow.

A line of the file is a column. So a build that was stopped goes on where it ended, and a file can be extended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from agent.errors import BadInputError
from agent.policy.ensemble import DOSES, PARTS, STEPS, Member, read_members
from agent.twin.column import TwinColumn, draw_column
from agent.twin.picture import information
from agent.twin.specimens import draw_specimen
from instrument.models import Description


def build(
    path: Path, columns: Iterable[tuple[str, int, Description]], classes: tuple[str, ...], minutes: float | None
) -> Iterator[Member]:
    """Add columns to a file, one after the other.

    Args:
        path: of the file; what it holds already is left out.
        columns: name, seed and description of each.
        classes: of specimens, by turns.
        minutes: no column is begun after so many; None: all are simulated.

    Yields:
        The columns that were added.

    Raises:
        BadInputError: the file is none of these, or a class is unknown.
    """
    done = {(member.name, member.seed) for member in read_members(path)} if path.exists() else set()
    started = time.monotonic()
    for name, seed, description in columns:
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            return
        if (name, seed) in done:
            continue
        member = simulate(name, seed, description, classes[seed % len(classes)])
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(member.model_dump(mode="json")) + "\n")
        yield member


def simulate(name: str, seed: int, description: Description, kind: str) -> Member:
    """One column with a specimen, at all settings.

    Args:
        name: of the column.
        seed: of everything that is drawn.
        description: of the instrument.
        kind: class of the specimen.
    """
    rng = np.random.default_rng([seed, 7])
    column = draw_column(description, rng)
    reach = 0.75 * column.window + 14
    specimen = draw_specimen(kind, rng, reach)
    values = [
        [
            [round(v, 3) for v in information(column, specimen, step, column.defocus(part), list(DOSES), rng)]
            for part in PARTS
        ]
        for step in STEPS
    ]
    return Member(name=name, seed=seed, specimen=kind, column=told(column), values=values)


def told(column: TwinColumn) -> dict[str, float]:
    """The numbers of a column that a reader may want to see again.

    Args:
        column: of an ensemble.
    """
    return {
        "voltage": column.voltage,
        "semiangle": round(column.semiangle, 3),
        "angular_pixel": round(column.angular_pixel, 4),
        "source_size": round(column.source_size, 3),
        "focal_spread": round(column.focal_spread, 1),
        "jitter": round(column.jitter, 3),
    }


def check_path(path: Path) -> None:
    """Whether a file can take an ensemble.

    Args:
        path: of the file.

    Raises:
        BadInputError: its folder does not exist, or it holds something else.
    """
    if not path.parent.is_dir():
        msg = f"{path}: its folder does not exist"
        raise BadInputError(msg)
    if path.exists():
        read_members(path)
