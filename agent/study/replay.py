"""The least dose of a recording that keeps a part of its score, judged against counts that were held out of it.

Half of the recording, every other line, is held out and makes a picture of its own, of whose power the part that is
signal is known ring by ring from its two halves. Acquisitions of less dose are taken from the other half: fewer counts, or
fewer positions. What their pictures have in common with the held-out picture is the information they carry; their own scores
say what a campaign would see.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.config import ScoreChoice
from agent.errors import StoppedError
from agent.known_geometry import KnownGeometry
from agent.processing.column_state import ColumnState
from agent.processing.process import ProcessingJob, process_acquisition
from agent.reconstruction import thin
from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Score
from agent.scoring.information import scale_score
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.storage.reconstruction_file import read_reconstruction
from instrument.models import Record, Rectangle

KEPT = 0.9
"""Part of the whole recording's score that is to be kept."""
RUNGS = ((1, 1.0), (1, 0.5), (2, 1.0), (1, 0.25), (2, 0.5), (1, 0.125), (2, 0.25))
"""(step over that of the recording, part of a pattern's counts); of step 1 every other line is left."""
QUICK = 32
"""Positions along each edge of the part that a quick study looks at."""
_PIXEL = 0.2
"""What a pixel is scaled to, Å: `true_information` is made for atoms."""

Array = NDArray[np.float64]


class ReplayRecord(Record):
    """What one acquisition of a recording shows. Doses in counts/Å², scores in bit/Å²."""

    study: str = "replay"
    policy: str = Field(description="whole, held-out or ladder")
    column: str = Field(description="name of the recording")
    seed: int
    dose: float
    budget: float = Field(description="part of the recording's dose")
    trials: int = 1
    electrons: float = Field(description="counts that it used")
    step: float
    defocus: float
    score: float | None = Field(default=None, description="its own")
    sd: float | None = None
    resolution: float | None = Field(default=None, description="half-bit, Å")
    veto: str | None = None
    truth: float | None = Field(default=None, description="judged against the held-out picture; None: not judged")
    oracle: float | None = Field(default=None, description="score of the whole recording")
    regret: float | None = Field(default=None, description="1 − truth/oracle")
    frequency: tuple[float, ...] = ()
    frc: tuple[float, ...] = ()
    pairs: tuple[float, ...] = ()
    error: str | None = None

    @property
    def key(self) -> tuple[str, int, float, float]:
        """What tells the records of a study apart."""
        return self.policy, self.seed, round(self.step, 6), round(self.budget, 6)


@dataclass(frozen=True)
class Replayed:
    """A recording, and how its acquisitions are processed and scored.

    Attributes:
        name: of the recording.
        acquisition: of all its patterns, a raster in one pass.
        scored: the part that is scored.
        score: rings.
        geometry: what is known of the detector.
        folder: where pictures and the column are kept, so that a study can go on.
    """

    name: str
    acquisition: Acquisition
    scored: Rectangle
    score: ScoreChoice
    geometry: KnownGeometry
    folder: Path

    def picture(self, record: ReplayRecord) -> Path:
        """Where the phase of a record's picture is kept."""
        return self.folder / f"{record.policy}-{record.seed}-{record.step:.4g}-{record.budget:.4g}.npz"


def middle(acquisition: Acquisition, edge: int) -> Acquisition:
    """The middle of a raster, `edge` positions along both axes, or all where it has no more.

    Args:
        acquisition: of a raster in one pass.
        edge: positions.
    """
    n_y, n_x = acquisition.plan.shape
    rows, columns = (np.arange(max((n - edge) // 2, 0), min((n + edge) // 2, n)) for n in (n_y, n_x))
    return _taken(
        acquisition, (rows[:, None] * n_x + columns).ravel(), acquisition.plan.step, (len(rows), len(columns))
    )


def _taken(
    acquisition: Acquisition,
    index: NDArray[np.intp],
    step: float,
    shape: tuple[int, int] | None,
    part: float = 1.0,
    seed: int = 0,
) -> Acquisition:
    """Some patterns of a recording, with part of their counts; `shape` None: they are no raster of `step`."""
    positions, patterns = acquisition.plan.scan_positions()[index], acquisition.patterns[index]
    if part < 1:
        patterns = thin(np.ascontiguousarray(patterns), part, seed)
    low, high = positions.min(axis=0) - step / 2, positions.max(axis=0) + step / 2
    cell = step**2 if shape is not None else (high - low).prod() / len(index)
    plan = acquisition.plan.model_copy(
        update={
            "field": Rectangle(y=low[0], x=low[1], height=high[0] - low[0], width=high[1] - low[1]),
            "step": step,
            "dose": float(patterns.sum(dtype=np.float64)) / len(index) / cell,
            "positions": None if shape is not None else tuple((float(y), float(x)) for y, x in positions),
        }
    )
    outcome = acquisition.outcome.model_copy(update={"frames": len(index)})
    return replace(acquisition, patterns=patterns, received=np.ones(len(index), bool), plan=plan, outcome=outcome)


def ladder(whole: Acquisition, seed: int) -> Iterator[tuple[str, float, Acquisition]]:
    """What is acquired from a recording: (policy, part of the whole dose, acquisition), the whole first, the held-out next.

    Args:
        whole: all of it.
        seed: of the counts that are drawn.
    """
    n_y, n_x = whole.plan.shape
    even = np.repeat(
        np.arange(n_y) % 2 == 0, n_x
    )  # lines: of a checkerboard's half the score would find no second half
    every = np.arange(len(even))
    yield "whole", 1.0, whole
    yield "held-out", 0.5, _taken(whole, every[~even], whole.plan.step, None)
    for multiple, part in RUNGS:
        if multiple == 1:
            yield "ladder", part / 2, _taken(whole, every[even], whole.plan.step, None, part, seed)
            continue
        rows, columns = np.arange(0, n_y, multiple), np.arange(0, n_x, multiple)
        index = (rows[:, None] * n_x + columns).ravel()  # of even lines: none of them is held out
        taken = _taken(whole, index, multiple * whole.plan.step, (len(rows), len(columns)), part, seed)
        yield "ladder", part / multiple**2, taken


def replay_records(
    replayed: Replayed, seed: int, done: Sequence[ReplayRecord], say: Callable[[str], None]
) -> Iterator[ReplayRecord]:
    """One record for each acquisition; those that are done already, with their pictures on disk, are repeated from there.

    Args:
        replayed: the recording.
        seed: of the counts that are drawn.
        done: records of a study that was stopped.
        say: told what is being done.
    """
    known = {record.key: record for record in done if record.error is None}
    whole: ReplayRecord | None = None
    held: ReplayRecord | None = None
    for policy, part, acquisition in ladder(replayed.acquisition, seed):
        plan = acquisition.plan
        asked = ReplayRecord(
            policy=policy,
            column=replayed.name,
            seed=seed,
            dose=plan.dose,
            budget=part,
            electrons=float(acquisition.patterns.sum(dtype=np.float64)),
            step=plan.step,
            defocus=plan.defocus,
        )
        say(f"{policy}, {part:.3g} of the dose, step {plan.step:.4g} Å")
        record = known.get(asked.key)
        if record is None or not replayed.picture(asked).exists():
            record = _processed(replayed, acquisition, asked)
        if policy == "ladder" and record.error is None and held is not None and whole is not None:
            record = _judged(replayed, record, held, whole)
        yield record
        if policy != "ladder" and record.error is not None:
            return  # nothing can be judged without it
        whole, held = (record if policy == "whole" else whole), (record if policy == "held-out" else held)


def _processed(replayed: Replayed, acquisition: Acquisition, asked: ReplayRecord) -> ReplayRecord:
    """The product's own processing, from the column as the whole recording taught it."""
    column = replayed.folder / "column.json"
    with tempfile.TemporaryDirectory(prefix="ptychopilot-study-") as scratch:
        output, after = Path(scratch) / "picture.h5", Path(scratch) / "after.json"
        job = ProcessingJob(
            acquisition=Path(scratch) / "none.h5",  # it is in memory
            output=output,
            column=column if column.exists() and asked.policy != "whole" else None,
            column_output=after,
            scored=replayed.scored,
            geometry=replayed.geometry,
            reconstruction=ReconstructionChoice(),
            score=replayed.score,
            seed=asked.seed,
        )
        try:
            result = process_acquisition(acquisition, job)
            picture = read_reconstruction(output).reconstruction
            image = crop(picture.phase, picture.origin, picture.pixel_size, _around(replayed, asked.policy))
        except StoppedError:
            raise
        except Exception as error:  # one acquisition that fails must not end a study
            return asked.model_copy(update={"error": " ".join(str(error).split()) or type(error).__name__})
        if asked.policy == "whole":
            ColumnState.load(after).save(column)
    np.savez(replayed.picture(asked), phase=image, pixel=np.array(picture.pixel_size))
    score = result.score
    return asked.model_copy(
        update={
            "score": score.value,
            "sd": score.sd,
            "resolution": score.resolution,
            "veto": score.veto,
            "frequency": score.frequency,
            "frc": score.frc,
            "pairs": score.pairs,
        }
    )


def _around(replayed: Replayed, policy: str) -> Rectangle:
    """The scored square, and for the held-out picture a margin, as others may lie shifted against it."""
    return replayed.scored.grown(replayed.acquisition.plan.step) if policy == "held-out" else replayed.scored


def _judged(replayed: Replayed, record: ReplayRecord, held: ReplayRecord, whole: ReplayRecord) -> ReplayRecord:
    """With the information that the picture has in common with the held-out one."""
    own, other = (np.load(replayed.picture(each)) for each in (record, held))
    pixel = own["pixel"]
    scale = float(pixel.max()) / _PIXEL
    choice = replayed.score.model_copy(
        update={name: getattr(replayed.score, name) * scale for name in ("k_min", "k_max", "ring_width")}
    )
    known = signal_part(np.asarray(held.frc))
    truth = true_information(
        own["phase"], tuple(pixel / scale), other["phase"], float(other["pixel"][0]) / scale, choice, known
    )
    truth /= scale**2
    oracle = whole.score
    regret = None if not oracle else 1 - truth / oracle
    return record.model_copy(update={"truth": truth, "oracle": oracle, "regret": regret})


def signal_part(frc: Array) -> Array:
    """Part of the power of a picture, ring by ring, that is signal, from the correlation of its two halves: 2F/(1 + F).

    Args:
        frc: (rings,) correlation of the halves.
    """
    clipped = np.clip(frc, 0.0, 1.0)
    part: Array = 2 * clipped / (1 + clipped)
    return part


@dataclass(frozen=True)
class Least:
    """What a study comes to.

    Attributes:
        measured: acquisition of the least dose that keeps KEPT; None: none of the ladder does.
        part: of the recording's dose, interpolated between acquisitions, or foretold from the whole's own spectrum.
        quarter: part of the whole's score that the best acquisition with a quarter of the dose keeps; None: there is none.
        foretold: whether `part` is.
    """

    measured: ReplayRecord | None
    part: float
    quarter: float | None
    foretold: bool


def least_dose(records: Sequence[ReplayRecord]) -> Least | None:
    """The least dose that keeps KEPT of the whole's score; None where the whole has none.

    Args:
        records: of the study.
    """
    whole = next((r for r in records if r.policy == "whole" and r.score), None)
    judged = [r for r in records if r.policy == "ladder" and r.truth is not None]
    if whole is None or whole.score is None or not judged:
        return None
    best: dict[float, ReplayRecord] = {}
    for record in judged:
        kept = best.get(record.budget)
        if kept is None or (record.truth or 0.0) > (kept.truth or 0.0):
            best[record.budget] = record
    parts = sorted(best)
    values = [(best[part].truth or 0.0) / whole.score for part in parts]
    quarter = next((value for part, value in zip(parts, values, strict=True) if math.isclose(part, 0.25)), None)
    enough = [part for part, value in zip(parts, values, strict=True) if value >= KEPT]
    if not enough:
        return Least(None, _foretold(whole), quarter, True)
    at = parts.index(enough[0])
    part = enough[0]
    if at > 0 and values[at] > values[at - 1]:
        along = (KEPT - values[at - 1]) / (values[at] - values[at - 1])
        part = math.exp(math.log(parts[at - 1]) + along * math.log(parts[at] / parts[at - 1]))
    return Least(best[enough[0]], part, quarter, False)


def _foretold(whole: ReplayRecord) -> float:
    """Part of the dose at which the whole's own spectrum, scaled, carries KEPT of its information."""
    assert whole.score is not None
    assert whole.sd is not None
    spectrum = Score(value=whole.score, sd=whole.sd, frequency=whole.frequency, frc=whole.frc, pairs=whole.pairs)
    full = scale_score(spectrum, 1.0).value
    parts = np.geomspace(0.05, 1.0, 200)
    kept = np.array([scale_score(spectrum, float(part)).value for part in parts])
    return float(parts[np.argmax(kept >= KEPT * full)])
