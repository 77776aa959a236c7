"""What Prometheus finds of a campaign."""

from __future__ import annotations

import asyncio
import socket
from urllib.request import urlopen

import pytest
from examples import plan

from agent.errors import BadInputError
from agent.events import BudgetChanged, FramesReceived, InstrumentChanged, TrialChanged
from agent.records import Score, Settings, Suggestion, Trial, TrialState
from agent.status.metrics import measuring

pytest.importorskip("prometheus_client")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def test_electrons_frames_and_scores_are_found_at_metrics() -> None:
    port, exposure = _free_port(), plan()
    suggestion = Suggestion(settings=Settings(step=1.0, defocus=100.0, dose=1e3), source="sobol", reason="")
    trial = Trial(number=2, role="exploration", state=TrialState.RESERVED, suggestion=suggestion, plan=exposure)
    done = {"state": TrialState.DONE, "score": Score(value=3.5, sd=0.2), "seconds": {"acquire": 2.0}}
    async with measuring(str(port)) as metrics:
        metrics.on_event(BudgetChanged(spent=2e5, budget=1e6))
        metrics.on_event(TrialChanged(trial=trial))
        reserved = await asyncio.to_thread(_read, port)
        metrics.on_event(InstrumentChanged(state="safe", reason="blanked by hand"))
        metrics.on_event(FramesReceived(trial=2, received=97, total=100))
        booked = trial.model_copy(update={"state": TrialState.ACQUIRED, "electrons": exposure.electrons})
        for state in (booked, booked.model_copy(update=done), booked.model_copy(update=done)):
            metrics.on_event(TrialChanged(trial=state))
        ended = await asyncio.to_thread(_read, port)
        with pytest.raises(BadInputError, match="choose another port"):
            async with measuring(str(port)):
                pass
    assert reserved["ptychopilot_electrons_reserved"] == exposure.electrons
    assert reserved["ptychopilot_electrons_left"] == 1e6 - 2e5 - exposure.electrons
    assert ended["ptychopilot_electrons_reserved"] == 0
    assert ended['ptychopilot_score_bits_per_square_angstrom{role="exploration",trial="2"}'] == 3.5
    assert ended["ptychopilot_frames_lost_total"] == 3
    assert (reserved["ptychopilot_safe"], ended["ptychopilot_safe"]) == (0, 1)
    assert ended["ptychopilot_event_loop_lag_seconds"] >= 0
    assert ended['ptychopilot_trials_total{state="done"}'] == 1
    assert ended['ptychopilot_phase_seconds_sum{phase="acquire"}'] == 2.0
