"""A view of the dashboard's with hostile texts in every place."""

from __future__ import annotations

import json
from typing import Any

from agent.dashboard.view import View

HOSTILE = "<img src=x onerror=alert(1)>"


def view(**trial: Any) -> View:
    shown = View("v")
    common = {"ts": "2026-11-30T12:00:00+00:00", "seq": 1}
    state = {
        "phase": "waiting",
        "campaign": "c",
        "trial": 1,
        "role": HOSTILE,
        "text": HOSTILE,
        "n_trials": 3,
        "eta_s": None,
    }
    values = {
        "trial": 1, "step_a": 1.0, "defocus_a": -300.0, "dose": 1e3, "dose_unit": "e/Å²", "campaign": "c-1", "role": HOSTILE,
        "state": "done", "electrons": 1e5, "score": 3.0, "score_sd": 0.2, "reason": HOSTILE, "veto": HOSTILE,
        "field_y_a": 0.0, "field_x_a": 0.0, "field_height_a": 9.0, "field_width_a": 9.0,
    }  # fmt: skip
    event = {"severity": "error", "code": "X", "text": HOSTILE, "trial": None}
    for topic, fields in (("state", state), ("trial/1", values | trial), ("event", event)):
        shown.take(topic, json.dumps(common | fields).encode(), 0.0)
    assert shown.garbled == 0
    return shown
