"""The report says what the campaign found, with uncertainties and units, and needs nothing but itself."""

from __future__ import annotations

import base64
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from agent.report import write_report
from agent.report.drawing import round_length
from agent.report.headline import cheapest
from agent.report.pictures import Picture, spectrum
from agent.storage.journal import load_campaign


def _text(html: str) -> str:
    without_style = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style)))


def test_report_of_a_finished_campaign(finished_campaign: Path) -> None:
    path = write_report(load_campaign(finished_campaign), finished_campaign)
    assert path == finished_campaign / "report.html"
    html = path.read_text(encoding="utf-8")
    text = _text(html)

    # The answer: settings, both scores with their uncertainty, and the difference.
    for expected in (
        "1.1 Å, +310 Å",
        "4.05 ± 0.06 bit/Å²",
        "3.71 ± 0.06 bit/Å²",
        "0.34 ± 0.08 bit/Å² more",
        "12 × 10⁶",
    ):
        assert expected in text
    # The failed trial keeps its reason, and text from outside cannot become markup.
    assert "failed: the reconstruction died" in text
    assert "paper & <ink>" in text
    assert "<ink>" not in html

    # Two phases, two transforms, probe, correlation, scores, electrons, model.
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 9
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<script" not in html
    assert not list(finished_campaign.glob("*.part"))


def test_report_of_a_search_for_the_cheapest(cheapest_campaign: Path) -> None:
    record = load_campaign(cheapest_campaign)
    best = cheapest(record)
    assert best is not None
    assert best.number == 3
    text = _text(write_report(record, cheapest_campaign).read_text(encoding="utf-8"))
    assert "reached the target of 3.6 × 10⁻³ bit/Å² (90% of what the whole recording carries) is trial 3" in text
    assert "It needs 12.5% of the recording's dose: 87.5% is saved." in text
    assert "counts/Å²" in text
    assert "Counts per electron of this detector are not known" in text
    assert "e/Å²" not in text


def test_report_of_a_campaign_that_was_stopped_early(finished_campaign: Path) -> None:
    record = load_campaign(finished_campaign).model_copy(
        update={"state": "stopped", "reason": "by the operator", "recommended": None, "model_view": None, "trials": ()}
    )
    text = _text(write_report(record, finished_campaign).read_text(encoding="utf-8"))
    assert "This campaign was stopped: by the operator." in text


def test_report_without_the_bulk_files(finished_campaign: Path) -> None:
    for file in finished_campaign.glob("reconstruction-*.h5"):
        file.unlink()
    html = write_report(load_campaign(finished_campaign), finished_campaign).read_text(encoding="utf-8")
    assert "Score against trial" in html


def test_spectrum_is_calibrated() -> None:
    """A fringe of 2.5 Å along x shows at 0.4 1/Å on the horizontal axis, also where pixels are not square."""
    pixel_size = (0.3, 0.25)
    x = np.arange(130) * pixel_size[1]
    phase = np.broadcast_to(np.cos(2 * np.pi * x / 2.5), (110, 130)).astype(np.float32)
    amplitude, edge = spectrum(Picture(phase, phase, pixel_size, np.ones((2, 2), np.float32)), k_max=1.0)
    row, column = np.unravel_index(np.argmax(amplitude), amplitude.shape)
    ky, kx = (np.linspace(-edge, edge, n)[i] for n, i in zip(amplitude.shape, (row, column), strict=True))
    assert abs(kx) == pytest.approx(0.4, abs=0.03)
    assert ky == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize(("largest", "expected"), [(10.7, 10), (9.9, 5), (0.6, 0.5), (666, 500)])
def test_scale_bars_have_round_lengths(largest: float, expected: float) -> None:
    assert round_length(largest) == pytest.approx(expected)
