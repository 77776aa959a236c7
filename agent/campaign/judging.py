"""Whether a person's settings are legal and can be paid for, before they become a trial."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.campaign.acquisition import Acquirer, FreshAreaError
from agent.campaign.session import Session
from agent.errors import BadInputError
from agent.policy.apertures import search_space
from agent.records import OPEN, Role, Settings, Suggestion, Trial, TrialState
from instrument import Description, InstrumentClient
from instrument.errors import ExhaustedError, OutOfLimitsError

_ROUNDING = 1e-9


class SettingsJudge:
    """Holds settings against the same limits as a policy's, and asks the instrument what they cost.

    Args:
        session: of the campaign.
        client: asked; nothing is reserved.
        acquirer: knows where a trial would lie.
        rationed: what may be taken now of a recording that is used up.
    """

    def __init__(
        self,
        session: Session,
        client: InstrumentClient,
        acquirer: Acquirer,
        rationed: Callable[[Description, bool], Description],
    ) -> None:
        self._config = session.config
        self._book = session.book
        self._client = client
        self._acquirer = acquirer
        self._rationed = rationed

    async def __call__(self, settings: Settings, role: Role, replaced: Trial | None) -> float:
        """What settings cost.

        Args:
            settings: step Å, defocus Å, dose e/Å².
            role: exploration or final.
            replaced: the trial in whose place they come; None: they come besides.

        Returns:
            Electrons, with margins and flyback.

        Raises:
            BadInputError: they are not legal, or not to be paid for; with what is.
            InstrumentError: the instrument does not answer.
        """
        description = await self._client.describe()
        final = role == "final"
        now = self._config.budget.limited(self._rationed(description, final))
        illegal = await asyncio.to_thread(lambda: search_space(now, self._config).why_illegal(settings, final=final))
        if illegal is not None:
            raise BadInputError(f"not legal: {illegal}")
        asked = Trial(
            number=self._book.next_number if replaced is None else replaced.number,
            role=role,
            state=TrialState.SUGGESTED,
            suggestion=Suggestion(settings=settings, source="operator", reason=""),
        )
        try:
            field = await self._acquirer.place(asked, description) if replaced is None else None
            if field is None:
                assert replaced is not None
                field = replaced.plan.field if replaced.plan else await self._acquirer.place(asked, description)
            plan = self._acquirer.plan(asked, field).model_copy(update={"id": f"{asked.number:03d}-asked"})
            check = await self._client.check(plan)
        except (OutOfLimitsError, ExhaustedError) as error:
            raise BadInputError(f"the instrument would refuse it: {error}") from error
        except FreshAreaError as error:
            raise BadInputError(str(error)) from error
        cost = max(check.electrons, plan.electrons)
        self._require(cost, role, replaced)
        return cost

    def _require(self, cost: float, role: Role, replaced: Trial | None) -> None:
        """Refuse what the budget does not pay for, with what others have been promised."""
        budget = self._book.budget
        others = [
            t for t in self._book if t.state in OPEN and t.electrons == 0 and t.role in ("exploration", "reference")
        ]
        promised = sum(t.plan.electrons for t in others if t.plan is not None and t != replaced)
        left = budget.left if role == "final" else min(budget.exploration_left, budget.left) - promised
        if cost > left * (1 + _ROUNDING):
            whose = "the campaign" if role == "final" else "exploration"
            msg = f"it would cost {cost:.4g} electrons; {whose} has {max(left, 0.0):.4g} left"
            raise BadInputError(f"{msg}; lower the dose or raise the step")
