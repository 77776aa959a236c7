"""What a notebook shows of a score, a suggestion and a campaign."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

from agent.records import Alternative, Score, Settings, Suggestion
from agent.storage.journal import load_campaign


def pictures(html: str) -> int:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert all(base64.b64decode(png).startswith(b"\x89PNG") for png in found)
    return len(found)


def test_a_score_shows_its_correlation_and_its_uncertainty() -> None:
    html = Score(value=3.5, sd=0.1, frequency=(0.2, 0.3), frc=(0.9, 0.8), pairs=(40.0, 60.0))._repr_html_()
    assert pictures(html) == 1
    assert "3.50 ± 0.10 bit/Å²" in html


def test_a_score_without_rings_shows_its_numbers_and_its_veto() -> None:
    html = Score(value=3.5, sd=0.1, veto="overfit & <misfit>")._repr_html_()
    assert pictures(html) == 0
    assert "overfit &amp; &lt;misfit&gt;" in html


def test_a_suggestion_shows_what_was_expected_and_what_was_rejected() -> None:
    settings = Settings(step=1.1, defocus=300.0, dose=1200.0)
    rejected = Alternative(settings=settings, predicted=2.0, predicted_sd=0.4, reason="tells less")
    suggestion = Suggestion(
        settings=settings,
        source="botorch",
        reason="tells most",
        predicted=2.5,
        predicted_sd=0.3,
        alternatives=(rejected,),
    )
    html = suggestion._repr_html_()
    assert pictures(html) == 1
    for expected in ("step 1.1 Å, defocus +300 Å", "2.50 ± 0.30 bit/Å²", "tells most", "tells less"):
        assert expected in html


def test_a_campaign_shows_its_final_picture_and_its_trials(finished_campaign: Path) -> None:
    html = load_campaign(finished_campaign)._repr_html_()
    assert pictures(html) == 2
    assert "4.05 ± 0.06 bit/Å²" in html
    assert "0.34 ± 0.08 bit/Å² more" in html


def test_a_campaign_whose_files_are_elsewhere_shows_its_numbers(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign).model_copy(update={"folder": "/nowhere"})
    assert pictures(record._repr_html_()) == 1


def test_records_do_not_wait_for_matplotlib() -> None:
    code = "import sys, agent.records; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
