"""The trials of a running campaign: in memory, in the journal, and told to whoever watches, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.events import Audience, BudgetChanged, TrialChanged
from agent.policy.base import Observation
from agent.records import Role, State, Suggestion, Trial
from agent.scoring.information import dose_knee
from agent.storage.journal import Journal

ENDED: tuple[State, ...] = ("done", "failed", "vetoed")
ACQUIRED: tuple[State, ...] = ("acquired", "reconstructing")


class TrialBook:
    """All trials so far. Every change is on disk before the call that makes it returns."""

    def __init__(self, journal: Journal, audience: Audience, budget: float) -> None:
        self._journal = journal
        self._audience = audience
        self._budget = budget
        self._trials = {trial.number: trial for trial in journal.trials()}

    def __iter__(self) -> Iterator[Trial]:
        return iter([self._trials[number] for number in sorted(self._trials)])

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def next_number(self) -> int:
        """Of the trial that comes next."""
        return max(self._trials, default=0) + 1

    @property
    def spent(self) -> float:
        """Electrons of the campaign's budget that are booked; the expert's comparison has a budget of its own."""
        return sum(trial.electrons for trial in self if trial.role != "expert")

    @property
    def left(self) -> float:
        """Electrons of the budget that are left."""
        return max(self._budget - self.spent, 0.0)

    def of_role(self, role: Role) -> list[Trial]:
        """The trials of a role, in order."""
        return [trial for trial in self if trial.role == role]

    def latest(self, role: Role) -> Trial | None:
        """The last trial of a role that has not failed, if any."""
        alive = [trial for trial in self.of_role(role) if trial.state not in ("failed", "vetoed")]
        return alive[-1] if alive else None

    def add(self, role: Role, suggestion: Suggestion, seconds: float) -> Trial:
        """A new trial in state `suggested`; `seconds` is what the suggestion took."""
        trial = Trial(
            number=self.next_number, role=role, state="suggested", suggestion=suggestion, seconds={"suggest": seconds}
        )
        return self._put(trial)

    def update(self, trial: Trial, **changes: Any) -> Trial:
        """Change fields of a trial; `seconds` are added to those it has."""
        current = self._trials[trial.number]
        if "seconds" in changes:
            changes["seconds"] = {**current.seconds, **changes["seconds"]}
        changed = current.model_copy(update=changes)
        self._put(changed)
        if changed.electrons != current.electrons and changed.role != "expert":
            self._audience.tell(BudgetChanged(spent=self.spent, budget=self._budget))
        return changed

    def _put(self, trial: Trial) -> Trial:
        self._journal.write_trial(trial)
        self._trials[trial.number] = trial
        self._audience.tell(TrialChanged(trial=trial))
        return trial

    def failures_in_a_row(self, after: int) -> list[Trial]:
        """The failed trials since the last success, counting only those with a number above `after`."""
        failed: list[Trial] = []
        for trial in self:
            if trial.number <= after or trial.state not in ENDED:
                continue
            failed = [*failed, trial] if trial.state == "failed" else []
        return failed

    def observations(self, number: int) -> list[Observation]:
        """What the policy may know when it suggests trial `number`.

        The exploration trial just before it counts as pending, whether or not its score has arrived meanwhile: so
        a suggestion does not depend on how long a reconstruction took. What failed before it was reconstructed is
        known to have failed.
        """
        told = [t for t in self if t.number < number and t.role in ("reference", "exploration") and t.state != "vetoed"]
        return [_observe(t, pending=t.number == number - 1 and t.role == "exploration") for t in told]


def _observe(trial: Trial, *, pending: bool) -> Observation:
    common = {
        "trial": trial.number,
        "settings": trial.settings,
        "electrons": trial.electrons,
        "role": trial.role,
    }
    if trial.state == "failed" and (trial.acquisition_file is None or not pending):
        return Observation(state="failed", **common)
    if pending or trial.score is None:
        return Observation(state="pending", **common)
    if trial.score.veto is not None:
        return Observation(state="failed", **common)
    return Observation(
        state="done",
        score=trial.score.value,
        variance=trial.score.sd**2,
        knee=dose_knee(trial.score, trial.settings.dose),
        **common,
    )
