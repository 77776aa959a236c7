# SPDX-License-Identifier: GPL-3.0-or-later
"""Exposures for studies: counts, what the microscope says of itself, and the truth beside them, in a file each.

`python -m sim_instrument expose FOLDER` says in a line of JSON which columns there are, and answers each further line from its
standard input by one of its own. Nothing is checked against limits, and every exposure finds a pristine specimen.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import h5py
import numpy as np
from numpy.typing import NDArray

from instrument.models import AcquisitionPlan, Description, Record, Rectangle
from sim_instrument.microscope import SimulatedMicroscope
from sim_instrument.simulation import THREADS, Exposure
from sim_instrument.truth import true_defocus, true_phase
from sim_instrument.zoo import Entry, load_columns, random_column, random_specimen

PIXEL = 0.1
"""Å, of the true phase; finer than pictures are, so that it can be moved."""


class Request(Record):
    """A line of standard input.

    Attributes:
        column: its number in the list.
        plan: what to expose; None: only describe the column.
        truth: of which part of the specimen the true phase is wanted, in the frame of the set-points, Å; None: of none.
    """

    column: int
    plan: AcquisitionPlan | None = None
    truth: Rectangle | None = None


def entries_of(path: Path | None, count: int, first_seed: int) -> list[Entry]:
    """The columns of a study.

    Args:
        path: of a list, see `load_columns`; None: drawn by seed.
        count: how many are drawn.
        first_seed: of the first one.

    Raises:
        BadInputError: the list cannot be read.
    """
    if path is not None:
        return load_columns(path)
    return [
        Entry(name=f"random-{seed}", seed=seed, specimen=random_specimen(seed), column=random_column(seed))
        for seed in range(first_seed, first_seed + count)
    ]


class Exposures:
    """A row of microscopes, each made when it is first asked for.

    Args:
        entries: columns and specimens.
        folder: where the files of exposures go.
    """

    def __init__(self, entries: Sequence[Entry], folder: Path) -> None:
        self.entries, self._folder = entries, folder
        self._microscope: tuple[int, SimulatedMicroscope] | None = None
        self._written = 0

    def answer(self, request: Request) -> dict[str, object]:
        """What a line of standard input is answered with."""
        microscope = self._at(request.column)
        description = asyncio.run(microscope.describe())
        if request.plan is None:
            return {"description": description.model_dump(mode="json")}
        path = self._folder / f"{self._written:05d}.h5"
        self._written += 1
        exposure = Exposure(
            request.plan, microscope.specimen, microscope.column, self.entries[request.column].seed, damage=None
        )
        with ThreadPoolExecutor(THREADS) as pool:
            counts = np.concatenate(list(pool.map(exposure.counts, exposure.blocks)))
        self._write(path, microscope, description, request, counts, exposure.positions)
        return {"file": str(path)}

    def _at(self, number: int) -> SimulatedMicroscope:
        """The column of that number; a specimen is large, so only the last one is kept."""
        if self._microscope is None or self._microscope[0] != number:
            entry = self.entries[number]
            self._microscope = number, SimulatedMicroscope(entry.specimen, entry.column, seed=entry.seed)
        return self._microscope[1]

    def _write(
        self,
        path: Path,
        microscope: SimulatedMicroscope,
        description: Description,
        request: Request,
        counts: NDArray[np.uint16],
        positions: NDArray[np.float64],
    ) -> None:
        plan, column, specimen = request.plan, microscope.column, microscope.specimen
        assert plan is not None
        with h5py.File(path, "w") as file:
            file["counts"] = counts
            file.attrs["plan"] = plan.model_dump_json()
            file.attrs["description"] = description.model_dump_json()
            truth = file.create_group("truth")
            truth.attrs["defocus"] = true_defocus(column, specimen, plan.defocus)
            truth.attrs["rotation"] = column.rotation
            truth.attrs["mirrored"] = column.mirrored
            if request.truth is None:
                return
            # What lay under the set-points: the specimen drifts while it is scanned.
            y, x = (positions - plan.scan_positions()).mean(axis=0)
            seen = request.truth.model_copy(update={"y": request.truth.y + y, "x": request.truth.x + x})
            phase = truth.create_dataset("phase", data=true_phase(specimen, seen, PIXEL, column.voltage))
            phase.attrs["pixel_size"] = PIXEL
            phase.attrs["origin"] = (request.truth.y, request.truth.x)


def expose(entries: Sequence[Entry], folder: Path, requests: IO[str] | None = None) -> None:
    """Answer requests, a line each, until there are no more.

    Args:
        entries: columns and specimens.
        folder: where the files of exposures go; it must exist.
        requests: lines of JSON; None: standard input.
    """
    exposures = Exposures(entries, folder)
    with _own_output() as out:
        _say(out, {"columns": [{"name": entry.name, "seed": entry.seed} for entry in entries]})
        for line in sys.stdin if requests is None else requests:
            try:
                _say(out, exposures.answer(Request.model_validate_json(line)))
            except Exception as error:  # one bad column must not end a study
                _say(out, {"error": " ".join(f"{type(error).__name__}: {error}".split())})


def _say(out: IO[str], content: dict[str, object]) -> None:
    print(json.dumps(content), file=out, flush=True)


@contextmanager
def _own_output() -> Iterator[IO[str]]:
    """Standard output for answers alone; what libraries print goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", encoding="utf-8", closefd=False) as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
