"""The trials of a running campaign: in memory, in the journal, and told to whoever watches, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

from agent.cleaning_record import Cleaning
from agent.events import Audience, BudgetChanged, TrialChanged
from agent.live_choice import StoppedScan
from agent.model_record import ChosenModel
from agent.policy.base import Observation
from agent.records import ENDED, ElectronBudget, Optics, Role, Score, Settings, Suggestion, Trial, TrialState
from agent.scoring.information import dose_knee
from agent.storage.journal import Journal
from instrument import AcquisitionPlan

REFUSED = (TrialState.VETOED, TrialState.ABANDONED)
"""A person did not want it, or wanted something else in its place; nothing was exposed."""


class IllegalTransitionError(RuntimeError):
    """A trial was to go from one state to another that cannot follow it: a mistake in the program."""


class TrialChanges(TypedDict, total=False):
    """The fields of a trial that change during its life; see agent.records.Trial."""

    state: TrialState
    suggestion: Suggestion
    plan: AcquisitionPlan
    electrons: float
    score: Score | None
    defocus_measured: float
    optics: Optics | None
    cleaning: Cleaning | None
    model: ChosenModel | None
    reason: str
    stopped: StoppedScan | None
    acquisition_file: str
    reconstruction_file: str
    seconds: dict[str, float]


class TrialBook:
    """All trials so far. Every change is on disk before the call that makes it returns.

    Args:
        journal: of the campaign, with the trials of earlier sessions.
        audience: told of every change.
    """

    def __init__(self, journal: Journal, audience: Audience) -> None:
        self._journal = journal
        self._audience = audience
        self._trials = {trial.number: trial for trial in journal.trials()}

    def __iter__(self) -> Iterator[Trial]:
        return iter([self._trials[number] for number in sorted(self._trials)])

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def next_number(self) -> int:
        """Number of the trial that comes next."""
        return max(self._trials, default=0) + 1

    @property
    def budget(self) -> ElectronBudget:
        """The campaign's electrons as booked so far."""
        return ElectronBudget.of_campaign(self._journal.facts.config, self)

    def of_role(self, role: Role) -> list[Trial]:
        """The trials of a role, in order."""
        return [trial for trial in self if trial.role == role]

    def latest(self, role: Role) -> Trial | None:
        """The last trial of a role that has not failed and was not refused, if any."""
        alive = [trial for trial in self.of_role(role) if trial.state not in (TrialState.FAILED, *REFUSED)]
        return alive[-1] if alive else None

    def acquired_before(self, number: int) -> Settings | None:
        """The settings that were acquired last before a trial; None: none were.

        Args:
            number: of the trial.
        """
        earlier = [trial for trial in self if trial.number < number and trial.electrons > 0]
        return earlier[-1].settings if earlier else None

    def add(self, role: Role, suggestion: Suggestion, seconds: float) -> Trial:
        """Begin a trial.

        Args:
            role: of the trial.
            suggestion: its settings with their reason.
            seconds: how long the suggestion took.

        Returns:
            The trial, in state `suggested`.
        """
        return self._put(
            Trial(
                number=self.next_number,
                role=role,
                state=TrialState.SUGGESTED,
                suggestion=suggestion,
                seconds={"suggest": seconds},
            )
        )

    def update(self, trial: Trial, **changes: Unpack[TrialChanges]) -> Trial:
        """Change fields of a trial.

        Args:
            trial: whose number says which.
            changes: fields of Trial; `seconds` are added to those it has.

        Returns:
            The trial as it is now.

        Raises:
            IllegalTransitionError: the state cannot follow the present one; nothing is changed.
        """
        current = self._trials[trial.number]
        if "state" in changes and not current.state.may_become(changes["state"]):
            msg = f"trial {trial.number} is {current.state} and cannot become {changes['state']}"
            raise IllegalTransitionError(msg)
        if "seconds" in changes:
            changes["seconds"] = {**current.seconds, **changes["seconds"]}
        changed = current.model_copy(update=changes)
        self._put(changed)
        if changed.electrons != current.electrons and changed.role != "expert":
            budget = self.budget
            self._audience.tell(BudgetChanged(spent=budget.spent, budget=budget.total))
        return changed

    def _put(self, trial: Trial) -> Trial:
        self._journal.write_trial(trial)
        self._trials[trial.number] = trial
        self._audience.tell(TrialChanged(trial=trial))
        return trial

    def explored(self) -> int:
        """Exploratory trials that count: not what a person refused or asked for besides, nor what was lost on its way.

        What is lost is made up for, but not more often than there are trials: something else is wrong then.
        """
        besides = ("manual", "proposed")
        trials = [
            t for t in self.of_role("exploration") if t.state not in REFUSED and t.suggestion.origin not in besides
        ]
        lost = sum(t.state is TrialState.FAILED and t.electrons > 0 and t.acquisition_file is None for t in trials)
        return len(trials) - min(lost, self._journal.facts.config.exploration.trials)

    def failures_in_a_row(self, after: int) -> list[Trial]:
        """The failed trials since the last success.

        Args:
            after: only trials with a number above this one count.
        """
        failed: list[Trial] = []
        for trial in self:
            if trial.number <= after or trial.state not in ENDED:
                continue
            failed = [*failed, trial] if trial.state is TrialState.FAILED else []
        return failed

    def what_became(self) -> str:
        """How many trials were trusted, vetoed or failed, with the reason of the last that was not trusted, as a phrase."""
        tried = [trial for trial in self if trial.state in ENDED]
        failed = [trial for trial in tried if trial.state is not TrialState.DONE]
        vetoed = [trial for trial in tried if trial.veto is not None]
        said = f"of {len(tried)} trials {len(failed)} failed and {len(vetoed)} have a score that is not to be trusted"
        last = max((*failed, *vetoed), key=lambda trial: trial.number, default=None)
        if last is None:
            return said
        return f"{said} (trial {last.number}: {last.veto or last.reason})"

    def observations(self, number: int) -> list[Observation]:
        """What the policy may know when it suggests trial `number`.

        The exploration trial just before it counts as pending, whether or not its score has arrived meanwhile: so
        a suggestion does not depend on how long a reconstruction took. What failed before it was reconstructed is
        known to have failed.

        Args:
            number: of the trial that is suggested next.
        """
        told = [t for t in self if t.number < number and t.role in ("reference", "exploration")]
        told = [t for t in told if t.state is not TrialState.ABANDONED]
        return [observe(t, pending=t.number == number - 1 and t.role == "exploration") for t in told]


def observe(trial: Trial, *, pending: bool) -> Observation:
    """A trial as a policy sees it.

    Args:
        trial: of a campaign.
        pending: whether its score is not to be known yet.
    """
    common: dict[str, Any] = {
        "trial": trial.number,
        "settings": trial.settings,
        "electrons": trial.electrons,
        "role": trial.role,
    }
    if trial.state is TrialState.VETOED:  # a person does not want such settings; the policy looks elsewhere
        return Observation(state="failed", **common)
    if trial.state is TrialState.FAILED and (trial.acquisition_file is None or not pending):
        return Observation(state="failed", **common)
    if pending or trial.score is None:
        return Observation(state="pending", **common)
    if trial.score.veto is not None:
        return Observation(state="failed", **common)
    return Observation(
        state="done",
        score=trial.score.value,
        variance=trial.score.sd**2,
        resolution=trial.score.resolution,
        knee=dose_knee(trial.score, trial.settings.dose),
        defocus_measured=trial.defocus_measured,
        **common,
    )
