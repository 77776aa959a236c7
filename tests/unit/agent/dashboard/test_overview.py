"""The list of campaigns and two of them beside each other: what is compared, and what is not to be."""

from __future__ import annotations

import json
from pathlib import Path

from view_examples import HOSTILE, view

from agent.dashboard import overview, panels
from agent.dashboard.rows import row_of_record, row_of_view
from agent.dashboard.view import View
from agent.storage.journal import load_campaign

GOLDEN = Path(__file__).parents[3] / "integration" / "golden_campaigns" / "finished"


def campaign(name: str, score: float, sd: float, k_max: float = 1.25, electrons: float = 1e5) -> View:
    shown = view(
        role="final", score=score, score_sd=sd, veto=None, electrons=electrons, reason="", campaign=f"{name}-1"
    )
    session = {
        "id": f"{name}-1", "campaign": name, "folder": "/c", "version": "0", "started": "2026-11-30T12:00:00", "resumed": False,
        "instrument": HOSTILE, "goal": "best_picture", "policy": "random", "sample": "", "operator": "", "proposal": "",
        "k_max_per_a": k_max, "ts": "", "seq": 1,
    }  # fmt: skip
    shown.take("session", json.dumps(session).encode(), 0.0)
    return shown


def verdict(one: View, other: View) -> str:
    html = overview.compare_html((one, other), (None, None))
    assert "<img" not in html
    return html.partition("</p>")[0]


def test_two_scores_are_compared_with_their_uncertainty_and_electrons() -> None:
    clear = verdict(campaign("a", 4.0, 0.3), campaign("b", 3.0, 0.3, electrons=5e4))
    assert "a scores 1.0 ± 0.4 bit/Å² more than b, with 2 times its electrons: more than chance" in clear
    assert "within what chance explains" in verdict(campaign("a", 3.5, 0.3), campaign("b", 4.0, 0.3))


def test_scores_over_other_frequencies_are_not_compared() -> None:
    assert "not to be compared" in verdict(campaign("a", 4.0, 0.3), campaign("b", 3.0, 0.3, k_max=1.0))


def test_the_list_has_the_score_of_the_final_picture_from_journal_or_messages() -> None:
    rows = [row_of_record("finished", load_campaign(GOLDEN)), row_of_view(campaign("a/b", 4.0, 0.3))]
    html = overview.list_html(rows)
    assert "1.79 ± 0.08" in html
    assert "<img" not in html


def test_a_proposal_is_shown_as_a_strangers_words() -> None:
    shown = view()
    told = {
        "number": 2, "by": HOSTILE, "reason": HOSTILE, "step_a": 1.0, "defocus_a": 50.0, "dose": 80.0, "electrons": 2e4,
        "expires": "2026-11-30T12:15:00+00:00", "ts": "", "seq": 2,
    }  # fmt: skip
    shown.take("proposal", json.dumps(told).encode(), 0.0)
    html = panels.proposal_html(shown)
    assert "Proposal 2" in html
    assert "<img" not in html
    shown.take("proposal", b"", 0.0)
    assert panels.proposal_html(shown) == ""


def test_who_has_not_acknowledged_a_pause_is_named() -> None:
    shown = view()
    state = {
        "phase": "acquiring", "campaign": "c", "trial": 1, "role": "exploration", "text": "", "n_trials": 3, "eta_s": None,
        "paused": True, "unacknowledged": "acquisition", "ts": "", "seq": 2,
    }  # fmt: skip
    shown.take("state", json.dumps(state).encode(), 0.0)
    assert "not acknowledged yet by acquisition" in panels.banner_html(shown, "live", "")
