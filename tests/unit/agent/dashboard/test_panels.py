"""The page's panels: text from outside is shown, never run, and what is not trusted looks so."""

from __future__ import annotations

import json
import time

from view_examples import view

from agent.dashboard import charts, panels
from agent.dashboard.view import EVENTS_KEPT


def test_text_from_outside_is_never_run() -> None:
    shown = view()
    drawn = [
        panels.now_html,
        panels.events_html,
        panels.trials_html,
        charts.score_chart,
        charts.model_chart,
        charts.dose_map,
    ]
    for draw in drawn:
        assert "<img" not in draw(shown), draw.__name__


def test_a_score_that_is_not_trusted_is_struck_through_with_its_uncertainty() -> None:
    assert "<s title=" in panels.trials_html(view(veto="a grid"))
    assert "3.00 ± 0.20" in panels.trials_html(view(veto=None))
    assert "not trusted" not in panels.trials_html(view(veto=None))


def test_a_long_night_takes_no_more_memory_and_is_drawn_at_once() -> None:
    shown = view()
    event = {"ts": "", "seq": 1, "severity": "info", "code": "X", "text": "x", "trial": None}
    payload = json.dumps(event).encode()
    for _ in range(5 * EVENTS_KEPT):
        shown.take("event", payload, 0.0)
    assert len(shown.events) == EVENTS_KEPT
    began = time.process_time()
    panels.events_html(shown)
    assert time.process_time() - began < 0.5


def test_silence_is_shown_as_stale_after_five_seconds_but_not_for_what_has_ended() -> None:
    shown = view()
    assert panels.life(shown, 4.9)[0] == "live"
    assert panels.life(shown, 5.1)[0] == "stale"
    assert "not known" in panels.beam_html(shown, stale=True)
    ended = {
        "ts": "",
        "seq": 2,
        "phase": "finished",
        "campaign": "c",
        "trial": None,
        "role": None,
        "text": "",
        "n_trials": 3,
    }
    shown.take("state", json.dumps(ended | {"eta_s": 0.0, "outcome": "done"}).encode(), 0.0)
    assert panels.life(shown, 1e6) == ("ended", "done")
