"""What a person sees of a running campaign, on a terminal and in a log."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    PhaseChanged,
    ReconstructionProgress,
    TimeLeft,
    TrialChanged,
)
from agent.status.console import ConsoleProgress
from agent.status.topics import Translator
from agent.storage.journal import load_campaign


def _events(folder: Path) -> list[Event]:
    record = load_campaign(folder)
    done, failed = record.trials[0], record.trials[1]
    return [
        CampaignStarted(
            campaign="c-1",
            folder=str(folder),
            config=record.config,
            description=record.description,
            trials_planned=6,
            notes=("counts per electron are assumed",),
        ),
        PhaseChanged(phase="acquiring", trial=1, role="exploration"),
        FramesReceived(trial=1, received=100, total=400),
        TrialChanged(trial=done),
        TrialChanged(trial=failed),
        PhaseChanged(phase="acquiring", trial=3, role="exploration"),
        FramesReceived(trial=3, received=300, total=400),
        ReconstructionProgress(trial=2, phase="pass 3 of 6", fraction=0.5),
        BudgetChanged(spent=3e6, budget=record.config.electrons),
        TimeLeft(seconds=90.0),
    ]


def test_plain_lines_where_there_is_no_terminal(finished_campaign: Path) -> None:
    output = io.StringIO()
    with ConsoleProgress(Console(file=output, width=60), clock=lambda: 0.0) as progress:
        for event in [*_events(finished_campaign), CampaignEnded(state="done")]:
            progress.on_event(event)
    lines = output.getvalue().splitlines()
    assert lines[0] == "campaign made-up started on test bench: 6 acquisitions, 12 × 10⁶ electrons"
    assert "note: counts per electron are assumed" in lines
    assert "trial 1 (exploration): step 1.2 Å, defocus +300 Å, dose 1200 e/Å² → 2.60 ± 0.06 bit/Å², 1.02 Å" in lines
    assert "trial 2 (exploration) failed: the reconstruction died" in lines
    assert "\x1b" not in output.getvalue()


def test_a_terminal_shows_phase_budget_score_and_time_left(finished_campaign: Path) -> None:
    now = 5.0
    console = Console(file=io.StringIO(), width=120)
    progress = ConsoleProgress(console, clock=lambda: now)
    for event in _events(finished_campaign):
        progress.on_event(event)
    now += 10.0
    with console.capture() as capture:
        console.print(progress.render())
    shown = capture.get()
    for expected in (
        "trial 3 of 7: acquiring",  # trial 2 was lost, and is made up for
        "300 of 400 patterns",
        "trial 2: pass 3 of 6",
        "50%",
        "3 × 10⁶ of 12 × 10⁶",
        "10.0 s elapsed",
        "about 1 min 20 s left",
        "best so far 2.60 ± 0.06 bit/Å² (trial 1)",
    ):
        assert expected in shown


def test_a_vetoed_score_is_never_the_best_and_says_so_on_terminal_and_broker(finished_campaign: Path) -> None:
    events = _events(finished_campaign)
    done = next(event.trial for event in events if isinstance(event, TrialChanged))
    assert done.score is not None
    vetoed = done.model_copy(
        update={"number": 7, "score": done.score.model_copy(update={"value": 99.0, "veto": "it explains noise"})}
    )
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=100), clock=lambda: 0.0)
    translator = Translator("0", lambda: "now")
    letters = []
    for event in [*events, TrialChanged(trial=vetoed), PhaseChanged(phase="acquiring", trial=8, role="exploration")]:
        progress.on_event(event)
        letters += translator.letters(event)
    assert "– not trusted: it explains noise" in output.getvalue()
    assert output.getvalue().splitlines()[-1].endswith("best so far 2.60 ± 0.06 bit/Å² (trial 1)")
    assert [json.loads(letter.payload)["trial"] for letter in letters if letter.topic == "best"] == [1]
    told = [json.loads(letter.payload) for letter in letters if letter.topic == "event" and "trial 7" in letter.payload]
    assert [event["severity"] for event in told] == ["warning"]
    assert "not to be trusted: it explains noise" in told[0]["text"]


def test_a_vetoed_trial_comes_on_top_of_those_that_were_planned(finished_campaign: Path) -> None:
    events = _events(finished_campaign)
    done = next(event.trial for event in events if isinstance(event, TrialChanged))
    vetoed = [
        TrialChanged(trial=done.model_copy(update={"number": number, "state": "vetoed", "electrons": 0.0}))
        for number in (3, 4, 4)
    ]
    last = PhaseChanged(phase="acquiring", trial=9, role="final")
    console = Console(file=io.StringIO(), width=120)
    progress, translator = ConsoleProgress(console, clock=lambda: 0.0), Translator("1", lambda: "")
    told = []
    for event in [*events, *vetoed, last]:
        progress.on_event(event)
        told += [letter for letter in translator.letters(event) if letter.topic == "state"]
    with console.capture() as capture:
        console.print(progress.render())
    assert "trial 9 of 9: acquiring" in capture.get()
    assert json.loads(told[-1].payload)["n_trials"] == 9
