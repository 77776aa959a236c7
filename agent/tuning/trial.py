"""One stage of one trial, or its score: what a worker does. Works on arrays only, knows neither journal nor searcher."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.config import ScoreChoice
from agent.reconstruction import DiffractionData, HeldOut, ReconstructionSettings
from agent.records import Score
from agent.tuning.records import Judged, Stage
from agent.tuning.space import Space, Values, data_of, settings_of
from instrument.models import Rectangle

FEWEST = 49
"""Positions of a stage at least."""


@dataclass(frozen=True)
class Task:
    """What is reconstructed again and again.

    Attributes:
        data: calibrated.
        settings: of what is not searched.
        space: what is searched.
        ladder: the stages.
        squares: that are scored.
        score: rings and taper.
        seed: of held-out counts and halves.
        middle: whether the defocus of `data` is that of the specimen's middle.
    """

    data: DiffractionData
    settings: ReconstructionSettings
    space: Space
    ladder: tuple[Stage, ...]
    squares: tuple[Rectangle, ...]
    score: ScoreChoice
    seed: int
    middle: bool

    def positions(self, stage: int) -> int:
        """Positions of a stage."""
        n = len(self.data.patterns)
        return min(n, max(FEWEST, round(self.ladder[stage].positions * n)))

    def cost(self, values: Values, stage: int) -> float:
        """Of a stage in whole reconstructions as at the start: patterns times passes."""
        passes = self.settings_at(values, stage).max_passes
        return self.positions(stage) / len(self.data.patterns) * passes / self.settings.max_passes

    def settings_at(self, values: Values, stage: int) -> ReconstructionSettings:
        """The engine's settings of a stage."""
        return settings_of(values, self.settings, self.positions(stage), self.ladder[stage].passes)

    def whole(self, values: Values) -> tuple[DiffractionData, ReconstructionSettings]:
        """Data and settings of a picture with these values."""
        settings = settings_of(values, self.settings, len(self.data.patterns))
        return replace(self.data, **data_of(values, self.data, settings, middle=self.middle)), settings

    def score_cost(self, values: Values) -> float:
        """Of a score: a picture and two halves."""
        return 3 * self.cost(values, len(self.ladder) - 1)


@dataclass
class Bench:
    """A task with what a worker keeps of it from stage to stage."""

    task: Task
    held: dict[int, HeldOut] = field(default_factory=dict)

    def judge(self, values: Values, stage: int, on_pass: Callable[[], None] = lambda: None) -> Judged:
        """Reconstruct without a part of the counts, and see how well these are predicted.

        Args:
            values: of the trial.
            stage: number of the stage.
            on_pass: called after each pass; what it raises ends the stage.

        Raises:
            BadInputError: the data cannot be reconstructed so.
            ArithmeticError: the reconstruction diverged.
        """
        started = time.perf_counter()
        task = self.task
        n = task.positions(stage)
        if n not in self.held:
            self.held[n] = HeldOut(task.data, n, task.seed)
        settings = replace(task.settings_at(values, stage), quantitative=False)
        changes = data_of(values, task.data, settings, middle=task.middle)
        found = self.held[n].predicted(settings, on_pass=on_pass, **changes)
        return Judged(
            stage=stage,
            blocks=tuple(float(each) for each in found.blocks),
            pixels=found.pixels,
            cost=task.cost(values, stage),
            seconds=round(time.perf_counter() - started, 3),
        )

    def score(
        self, values: Values, on_progress: Callable[[float], None] = lambda fraction: None
    ) -> tuple[Score, float]:
        """What two halves of the counts have in common, bit/Å², and the seconds that took.

        Args:
            values: of the trial.
            on_progress: called with the fraction done; what it raises ends the score.
        """
        from agent.scoring.halves import judge

        started = time.perf_counter()
        data, settings = self.task.whole(values)
        judged = judge(data, settings, self.task.squares, self.task.score, self.task.seed, on_progress=on_progress)
        return judged.score, round(time.perf_counter() - started, 3)
