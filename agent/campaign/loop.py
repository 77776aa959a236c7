"""The loop: describe → (suggest → prepare → acquire → reconstruct → score → ingest)* → recommend → final → done.

The loop reads from the journal where it stands: beginning, going on after a lost connection and resuming after a kill are
the same thing. Acquiring the next data set overlaps reconstructing the last one. Nevertheless the settings of trial n
depend only on the scores up to n − 2 and on the settings of n − 1 (TrialBook.observations).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent.campaign.acquisition import Acquirer, FreshAreaError, NotPermittedError
from agent.campaign.digital_twin import DigitalTwin
from agent.campaign.judging import SettingsJudge
from agent.campaign.live import LivePictures
from agent.campaign.pipeline import Pipeline
from agent.campaign.planning import (
    expert_settings,
    final_suggestion,
    make_problem,
    needs_reference,
    ration,
    reference_part,
    reference_settings,
)
from agent.campaign.requests import Refusal
from agent.campaign.session import Session
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.events import ModelChanged, Phase, PhaseChanged, Recommended, TargetSet
from agent.policy import make_policy
from agent.policy.base import Policy
from agent.processing.child import JobRunner
from agent.records import ENDED, OPEN, ModelView, Recommendation, Role, Suggestion, Trial, TrialState
from agent.scoring.information import scale_score
from instrument import AcquisitionPlan, Description, ExhaustedError, InstrumentClient, OutOfLimitsError
from instrument.background import Background
from instrument.limits import with_legal_dose

MAX_FAILURES = 3
"""Failures in a row after which the campaign stops: something is wrong that another trial will not mend."""
_ROUNDING = 1e-9
"""Relative; kept back of the electrons left, because sums of them are rounded on both sides."""

_ACQUIRED = (TrialState.ACQUIRED, TrialState.RECONSTRUCTING)
_TO_ACQUIRE = (TrialState.SUGGESTED, TrialState.RESERVED)

T = TypeVar("T")


class Loop:
    """One connection's part of a campaign: goes on from where the journal says it stands, to its end.

    Args:
        session: the campaign.
        child: the process that reconstructs.
        client: holds the lease.
        tasks: where what runs beside the loop lives.
        live: reconstructs scans while they run; None: nobody does.
        twin: simulates columns like this one beside the campaign; None: nobody does.
    """

    def __init__(
        self,
        session: Session,
        child: JobRunner,
        client: InstrumentClient,
        tasks: Background,
        live: LivePictures | None = None,
        twin: DigitalTwin | None = None,
    ) -> None:
        self._session = session
        self.config = session.config
        self.layout = session.layout
        self._journal = session.journal
        self._audience = session.audience
        self._control = session.control
        self._book = session.book
        self._failures_after = session.failures_after
        self._steering = session.steering
        self._child = child
        self._client = client
        self._acquirer = Acquirer(session, client, live)
        self._pipeline = Pipeline(session, child, tasks)
        self._tasks = tasks
        self._twin = twin
        self._viewing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Everything that is still to do."""
        judge = SettingsJudge(
            self._session, self._client, self._acquirer, lambda now, final: self._rationed(now, final=final)
        )
        parts = {"loop": self._acknowledge_pause, "acquisition": self._acquirer.acknowledge_pause}
        parts["worker"] = self._child.acknowledge
        with self._steering.able_to_judge(judge), self._steering.parts.taking_part(**parts):
            await self._run()

    async def _acknowledge_pause(self) -> None:
        """The loop has taken note when it is at a step: whatever that is, permission is asked before the next exposure."""
        await asyncio.sleep(0)

    async def _run(self) -> None:
        await self._client.open_campaign(self._acquirer.account("exploration"), self.config.electrons)
        await self._take_stock()
        if needs_reference(self.config) and self._journal.facts.target is None:
            await self._measure_target()
        await self._explore()
        await self._pipeline.finished()
        await self._finish()
        await self._pipeline.finished()
        self._require_final()

    # -- what an earlier session or connection left behind ---------------------------------------------------------

    async def _take_stock(self) -> None:
        """Settle interrupted acquisitions with the instrument, and queue what is not reconstructed yet."""
        for trial in self._book:
            if trial.state in OPEN and trial.plan is not None:
                await self._acquirer.reconcile(trial)
        for trial in self._book:
            # What cannot be taken again is reconstructed again.
            irreplaceable = trial.role != "exploration" and trial.acquisition_file is not None
            if trial.state in _ACQUIRED or (trial.state is TrialState.FAILED and irreplaceable):
                self._pipeline.start(trial)

    # -- the steps -------------------------------------------------------------------------------------------------

    async def _explore(self) -> None:
        while all(trial.state is TrialState.ABANDONED for trial in self._book.of_role("final")):
            open_trial = self._open("exploration")
            if open_trial is None:
                self._control.check()
                number = self._book.next_number
                await self._pipeline.finished(t.number for t in self._book if t.number <= number - 2)
                self._check_failures()
                open_trial = self._asked_for("exploration")
                if open_trial is None and self._book.explored() < self.config.exploration.trials:
                    open_trial = await self._suggest(number)
                if open_trial is None:
                    return
            if not await self._explored(open_trial):
                return

    async def _explored(self, trial: Trial) -> bool:
        """Acquire a trial; False where no fresh area is left for it."""
        try:
            await self._acquire(trial)
        except FreshAreaError as error:
            self._book.update(trial, state=TrialState.FAILED, reason=str(error))
            self._journal.note("exploration ends", reason=str(error))
            return False
        return True

    def _asked_for(self, role: Role) -> Trial | None:
        """What a person has asked for, as the next trial."""
        return self._steering.begin_request(role, self._book)

    async def _suggest(self, number: int) -> Trial | None:
        """The next trial, or None where the policy finds that exploration has had its share."""
        await self._steering.may_suggest()
        if (asked := self._asked_for("exploration")) is not None:
            return asked
        self._phase("suggesting", number, "exploration")
        started = time.monotonic()
        description = await self._client.describe()
        observations = self._book.observations(number)

        def suggest(policy: Policy) -> tuple[list[Suggestion], str, Policy | None]:
            policy.ingest(observations)
            suggested = policy.suggest(1)
            return suggested, getattr(policy, "stop_reason", None) or "the policy suggests no further trial", policy

        try:
            suggestions, reason, policy = await self._ask_policy(description, number, suggest, final=False)
        except BadInputError as error:
            # Checked before the campaign began; what is legal has shrunk since (a recording gets used up).
            suggestions, reason, policy = [], str(error), None
        if not suggestions or policy is None:
            self._journal.note("exploration ends", reason=reason)
            return None
        trial = self._book.add("exploration", suggestions[0], time.monotonic() - started)
        self._drop_view()
        self._viewing = self._tasks.create_task(self._tell_view(policy))
        return trial

    def _drop_view(self) -> None:
        """Tell no view that is still being made: nothing waits for it, and it would come after a newer one."""
        if self._viewing is not None:
            self._viewing.cancel()

    async def _tell_view(self, policy: Policy) -> None:
        """Tell whoever watches what the model believes, while the trial that it suggested is being acquired."""
        left = self._book.budget.left
        try:
            view = await self._control.unless_stopped(asyncio.to_thread(policy.view, left))
        except (BadInputError, StoppedError):
            return
        if view is not None:
            self._audience.tell(ModelChanged(view=view))

    async def _ask_policy(
        self, description: Description, number: int, question: Callable[[Policy], T], *, final: bool
    ) -> T:
        """Ask a fresh policy in a thread: it is a pure function of what it is told, so resuming changes nothing."""
        problem = make_problem(
            self._rationed(description, final=final),
            self.config,
            self.layout,
            self._journal.facts.target,
            self._book.budget,
            self._journal.facts.prices,
            () if self._twin is None else self._twin.for_trial(number),
        )
        seed = self.config.seed
        return await self._control.unless_stopped(asyncio.to_thread(lambda: question(make_policy(problem, seed))))

    def _rationed(self, description: Description, *, final: bool) -> Description:
        """What may be taken now of a recording that is used up, so that later acquisitions find counts as well."""
        if not description.consumable:
            return description
        return ration(description, self._journal.facts.description, self._book, self.config, final=final)

    async def _acquire(self, trial: Trial) -> Trial:
        """Acquire an open trial and queue its reconstruction, unless a person does not want it."""
        self._control.check()
        before = self._book.acquired_before(trial.number)

        def permitted() -> Awaitable[Refusal | None]:
            return self._steering.permission(trial, before)

        if trial.state is TrialState.SUGGESTED and (refusal := await permitted()) is not None:
            return self._refused(trial, refusal)
        description = await self._client.describe()
        if trial.plan is None:
            trial = await self._make_plan(trial, description)
        try:
            trial = await self._acquirer.acquire(trial, description, permitted)
        except NotPermittedError as error:
            return self._refused(self._book[trial.number], error.refusal)
        if trial.state is TrialState.ACQUIRED:
            self._pipeline.start(trial)
        return trial

    def _refused(self, trial: Trial, refusal: Refusal) -> Trial:
        trial = self._book.update(trial, state=refusal.state, reason=refusal.reason)
        if refusal.state is TrialState.VETOED and trial.role in ("final", "reference"):
            self._control.stop(f"trial {trial.number}, the {trial.role} acquisition, was {refusal.reason}", now=False)
        self._control.check()
        return trial

    async def _measure_target(self) -> None:
        """Goal `cheapest` without a score: find out what the instrument can give at best."""
        while (reference := self._book.latest("reference")) is None or reference.state is not TrialState.DONE:
            self._check_failures()
            if reference is None:
                suggestion = reference_settings(await self._client.describe(), self.config)
                reference = self._book.add("reference", suggestion, 0.0)
            if reference.state in _TO_ACQUIRE:
                await self._acquire(reference)
            await self._pipeline.finished()
        assert reference.score is not None
        part = reference_part(self._journal.facts.description)
        full = scale_score(reference.score, 1 / part).value
        target = self.config.goal.fraction * full
        if target <= 0:
            msg = f"the reference acquisition carries no information ({full:.3g} bit/Å²); is there a specimen in it?"
            raise NoResultError(msg)
        self._journal.write(target=target)
        carries = "carries" if part == 1 else "is expected to carry"
        reason = f"{self.config.goal.fraction:.0%} of the {full:.4g} bit/Å² that the full recording {carries}"
        if reference.score.veto is not None:
            reason += f"; the reference's score is not to be trusted: {reference.score.veto}"
        self._audience.tell(TargetSet(target=target, reason=reason))

    async def _finish(self) -> None:
        """Recommend, acquire the final picture and, beside it, the expert's."""
        while (final := self._book.latest("final")) is None or final.state in _TO_ACQUIRE:
            self._check_failures()
            if final is None and (asked := self._asked_for("exploration")) is not None:
                await self._explored(asked)
                await self._pipeline.finished()
                continue
            await self._acquire(final or self._asked_for("final") or await self._recommend())
        if self.config.expert is None:
            return
        expert = self._open("expert")
        if expert is None and not self._book.of_role("expert"):
            assert final.plan is not None
            description = self._journal.facts.description
            suggestion = expert_settings(self.config, final.plan, self.layout.final, description)
            expert = self._book.add("expert", suggestion, 0.0)
        if expert is None:
            return
        try:
            await self._acquire(expert)
        except FreshAreaError as error:
            self._book.update(expert, state=TrialState.FAILED, reason=str(error))

    async def _recommend(self) -> Trial:
        number = self._book.next_number
        self._phase("recommending", number, "final")
        started = time.monotonic()
        description = await self._client.describe()
        observations = self._book.observations(number + 1)
        left = self._book.budget.left

        def recommend(policy: Policy) -> tuple[Recommendation, ModelView | None, str]:
            policy.ingest(observations)
            return policy.recommend(left), policy.view(left), policy.name

        try:
            recommendation, view, name = await self._ask_policy(description, number, recommend, final=True)
        except BadInputError as error:
            # What was legal before the first electron has turned out to lead nowhere.
            msg = f"no settings can be recommended for the final picture: {error}; {self._book.what_became()}"
            raise NoResultError(msg) from error
        self._journal.write(recommended=recommendation)
        self._audience.tell(Recommended(recommendation=recommendation))
        self._drop_view()
        if view is not None:
            self._journal.write(model_view=view)
            self._audience.tell(ModelChanged(view=view))
        return self._book.add("final", final_suggestion(recommendation, name), time.monotonic() - started)

    async def _make_plan(self, trial: Trial, description: Description) -> Trial:
        plan = self._acquirer.plan(trial, await self._acquirer.place(trial, description))
        if trial.role == "final":
            dose = self._affordable_dose(plan, await self._cost(plan), description)
            settings = trial.settings.model_copy(update={"dose": dose})
            trial = self._book.update(trial, suggestion=trial.suggestion.model_copy(update={"settings": settings}))
            plan = plan.model_copy(update={"dose": dose})
        elif trial.role == "expert":
            await self._client.open_campaign(plan.campaign, await self._cost(plan))
        return self._book.update(trial, plan=plan)

    async def _cost(self, plan: AcquisitionPlan) -> float:
        """Electrons of a plan with margins and flyback; of an impossible one what it asks for, `prepare` will refuse it."""
        try:
            return max((await self._client.check(plan)).electrons, plan.electrons)
        except (OutOfLimitsError, ExhaustedError):
            return plan.electrons

    def _affordable_dose(self, plan: AcquisitionPlan, cost: float, description: Description) -> float:
        """The plan's dose, less what flyback and margins of the scan cost where the policy has spent every electron."""
        affordable = self._book.budget.left * (1 - _ROUNDING)
        if cost <= affordable:
            return plan.dose
        dose = plan.dose * (affordable - (cost - plan.electrons)) / plan.electrons
        if dose > 0 and description.electrons_per_pattern_values is not None:
            legal = with_legal_dose(plan.model_copy(update={"dose": dose}), description).dose
            dose = legal if legal <= dose * (1 + _ROUNDING) else 0.0
        if dose <= 0:
            msg = f"the {affordable:.4g} electrons that are left do not pay for the final acquisition: it costs {cost:.4g}"
            raise NoResultError(msg)
        return dose

    # -- small things ----------------------------------------------------------------------------------------------

    def _open(self, role: Role) -> Trial | None:
        """The trial of a role that has been suggested and not acquired, if any."""
        latest = self._book.latest(role)
        return latest if latest is not None and latest.state in _TO_ACQUIRE else None

    def _check_failures(self) -> None:
        failed = self._book.failures_in_a_row(self._failures_after)
        if len(failed) >= MAX_FAILURES:
            msg = f"{len(failed)} trials in a row have failed, the last one because: {failed[-1].reason}"
            raise NoResultError(msg)

    def _require_final(self) -> None:
        final = self._book.of_role("final")[-1]
        if final.state not in ENDED or final.state is TrialState.FAILED:
            msg = f"the final acquisition has no score: {final.reason}; `ptychopilot resume` tries again"
            raise NoResultError(msg)

    def _phase(self, phase: Phase, number: int, role: Role) -> None:
        self._audience.tell(PhaseChanged(phase=phase, trial=number, role=role))
