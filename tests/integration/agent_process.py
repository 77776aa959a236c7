"""An agent in a process of its own that is killed, as by `kill -9` or Ctrl-C, at a given moment of a campaign.

    python agent_process.py run|resume FOLDER ENDPOINT CONFIG.json [MOMENT]

MOMENT is `STATE:NUMBER` (just after the journal has it), `frames:NUMBER` (while the frames arrive), `interrupt:NUMBER` (Ctrl-C
then), `twins:NUMBER` (so many columns of the digital twin) or `asked:NUMBER` (when the policy is asked so often). In the
environment, TWIN_WORLD: with the digital twin of `twin_world`; FAIL_POINT: it dies at that boundary of what is written down.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from fail_points import arm_from_environment
from twin_world import Release
from twin_world import arm_from_environment as arm_twin_from_environment

from agent import resume_campaign, run_campaign
from agent.campaign import loop
from agent.cli.errors import exit_code
from agent.config import CampaignConfig
from agent.errors import AgentError, BadInputError
from agent.events import Event, FramesReceived, TrialChanged, TwinChanged
from agent.policy import Policy, Problem, make_policy


class Assassin:
    def __init__(self, moment: str) -> None:
        self._what, _, number = moment.partition(":")
        self._number = int(number or 0)

    def on_event(self, event: Event) -> None:
        if isinstance(event, TwinChanged):
            now = self._what == "twins" and event.columns == self._number
        elif isinstance(event, TrialChanged):
            now = event.trial.state == self._what and event.trial.number == self._number
        else:
            arriving = self._what in ("frames", "interrupt")
            now = isinstance(event, FramesReceived) and arriving and event.trial == self._number
        if now:
            number = signal.SIGINT if self._what == "interrupt" else signal.SIGKILL
            self._what = "once is enough"
            os.kill(os.getpid(), number)

    def make_policy(self, problem: Problem, seed: int) -> Policy:
        """As the campaign makes it, each time that it asks."""
        if self._what == "asked":
            self._number -= 1
            if self._number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return make_policy(problem, seed)


def main(verb: str, folder: Path, endpoint: str, config: Path, moment: str = "") -> None:
    assassin = Assassin(moment)
    loop.make_policy = assassin.make_policy
    observers = [Release(), assassin]
    if verb == "run":
        campaign = CampaignConfig.model_validate_json(config.read_text())
        asyncio.run(
            run_campaign(campaign, endpoint, folder, observers=observers, processing="small_world:process", patience=20)
        )
    else:
        asyncio.run(resume_campaign(folder, endpoint=endpoint, observers=observers, patience=20))


if __name__ == "__main__":
    arm_from_environment()
    arm_twin_from_environment()
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *sys.argv[5:])
    except (AgentError, BadInputError) as error:
        sys.exit(exit_code(error))
