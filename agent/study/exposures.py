"""Acquisitions of simulated columns with the truth beside them, from a process of its own that knows the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from agent.config import Metadata
from agent.errors import AgentError, BadInputError, InstrumentUnavailableError
from agent.storage.acquisition_file import Acquisition
from agent.study.plans import Planned
from instrument.models import AcquisitionPlan, Description, Outcome

_BAD_INPUT = 2
"""Exit code of the simulator where the list of columns cannot be used."""
_T = TypeVar("_T")


class ExposureError(AgentError):
    """A column cannot be simulated, or a plan not with it; the study goes on with the next."""


@dataclass(frozen=True)
class StudyColumn:
    """A column of a study: its number in the list, its name and seed."""

    number: int
    name: str
    seed: int


@dataclass(frozen=True)
class Truth:
    """What is true of an acquisition.

    Attributes:
        defocus: of the specimen's middle plane, Å.
        rotation: from the detector's axes to the scan's, rad.
        mirrored: whether the detector is seen from behind.
        phase: (y, x), rad, of the part of the specimen that was asked for; None: of none.
        pixel: of the phase, Å.
    """

    defocus: float
    rotation: float
    mirrored: bool
    phase: NDArray[np.float64] | None
    pixel: float


@dataclass(frozen=True)
class Exposed:
    """An acquisition that a study asked for.

    Attributes:
        column: that it was made with.
        planned: what was asked for; None: the column cannot be simulated at all.
        acquisition: as a campaign would have it; None: it failed.
        truth: beside it.
        error: why it failed.
    """

    column: StudyColumn
    planned: Planned | None = None
    acquisition: Acquisition | None = None
    truth: Truth | None = None
    error: str | None = None


@contextmanager
def listed(columns: Path | None, specimen: str | None, seeds: Sequence[int]) -> Iterator[Path | None]:
    """The file of columns: one that was given, or that of the zoo's columns with one specimen; None: the zoo as it is.

    Args:
        columns: that was given.
        specimen: that all columns of the zoo have; None: each has its own.
        seeds: of the zoo's columns.
    """
    if columns is not None or specimen is None:
        yield columns
        return
    entries = [{"name": f"{specimen}-{s}", "seed": s, "specimen": specimen, "column": f"random-{s}"} for s in seeds]
    with tempfile.TemporaryDirectory(prefix="ptychopilot-study-") as folder:
        path = Path(folder) / "columns.yaml"
        path.write_text(json.dumps(entries), encoding="utf-8")
        yield path


class Simulator:
    """The process that simulates; it hears no Ctrl-C and ends with its `with` block.

    Args:
        columns: file that lists them; None: drawn by seed.
        count: how many are drawn.
        first_seed: of those drawn.

    Attributes:
        columns: of the study.

    Raises:
        BadInputError: the file cannot be used.
        InstrumentUnavailableError: the simulator does not start.
    """

    def __init__(self, columns: Path | None, count: int, first_seed: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ptychopilot-study-")
        self._command = [sys.executable, "-m", "sim_instrument", "expose", self._folder.name]
        if columns is not None:
            self._command += ["--columns", str(columns)]
        else:
            self._command += ["--count", str(count), "--first-seed", str(first_seed)]
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 – closed with the process
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        try:
            told = self._started()
        except BaseException:
            self.close()
            raise
        self.columns = tuple(StudyColumn(n, each["name"], each["seed"]) for n, each in enumerate(told))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its files."""
        self._closed = True
        self._end()
        self._log.close()
        self._folder.cleanup()

    def _started(self) -> list[dict[str, Any]]:
        """Start the process; which columns there are."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        columns: list[dict[str, Any]] = self._hear(self._process)["columns"]
        return columns

    def _end(self) -> None:
        if (process := self._process) is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._process = None

    def describe(self, column: StudyColumn) -> Description:
        """What a microscope with this column says of itself. Raises ExposureError where there can be none."""
        return Description.model_validate(self._ask({"column": column.number})["description"])

    def expose(self, column: StudyColumn, planned: Planned) -> tuple[Acquisition, Truth]:
        """Take an acquisition. Raises ExposureError where that is not possible."""
        request = {
            "column": column.number,
            "plan": planned.plan.model_dump(mode="json"),
            "truth": None if planned.truth is None else planned.truth.model_dump(),
        }
        path = Path(self._ask(request)["file"])
        try:
            return _read(path, column)
        finally:
            path.unlink()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; a process that died over the one before is replaced."""
        if self._process is None:
            if self._closed:
                msg = "the study has ended"
                raise ExposureError(msg)
            self._started()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            return self._hear(process)
        except (OSError, InstrumentUnavailableError) as error:
            if not self._closed:
                self._end()
            raise ExposureError(str(error)) from error

    def _hear(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise self._death(process.wait())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ExposureError(answer["error"])
        return answer

    def _death(self, code: int) -> Exception:
        if self._closed:
            return InstrumentUnavailableError("the study has ended")
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        why = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        if code == _BAD_INPUT:
            return BadInputError(why)
        return InstrumentUnavailableError(f"the process that simulates has ended ({code}): {why}")


def exposures(simulator: Simulator, plans: Callable[[int, Description], Sequence[Planned]]) -> Iterator[Exposed]:
    """All acquisitions of a study, column by column.

    Args:
        simulator: that takes them.
        plans: number and description of a column -> what to acquire with it.
    """
    for column in simulator.columns:
        try:
            wanted = plans(column.number, simulator.describe(column))
        except (ExposureError, ValueError) as error:  # pydantic's is a ValueError
            yield Exposed(column, error=str(error))
            continue
        for planned in wanted:
            try:
                acquisition, truth = simulator.expose(column, planned)
            except ExposureError as error:
                yield Exposed(column, planned, error=str(error))
            else:
                yield Exposed(column, planned, acquisition, truth)


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each computed while the one before is looked at.

    Who stops listening does not wait for the next one.
    """
    pool = ThreadPoolExecutor(1)
    try:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(path: Path, column: StudyColumn) -> tuple[Acquisition, Truth]:
    with h5py.File(path, "r") as file:
        plan = AcquisitionPlan.model_validate_json(file.attrs["plan"])
        description = Description.model_validate_json(file.attrs["description"])
        patterns = file["counts"][()]
        truth = file["truth"]
        phase = truth["phase"][()].astype(np.float64) if "phase" in truth else None
        found = Truth(
            defocus=float(truth.attrs["defocus"]),
            rotation=float(truth.attrs["rotation"]),
            mirrored=bool(truth.attrs["mirrored"]),
            phase=phase,
            pixel=1.0 if phase is None else float(truth["phase"].attrs["pixel_size"]),
        )
    acquisition = Acquisition(
        patterns=patterns,
        received=np.ones(len(patterns), dtype=bool),
        plan=plan,
        description=description,
        metadata=Metadata(sample=column.name),
        outcome=Outcome(id=plan.id, state="done", frames=len(patterns)),
    )
    return acquisition, found
