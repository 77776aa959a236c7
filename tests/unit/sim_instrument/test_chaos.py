# SPDX-License-Identifier: GPL-3.0-or-later
"""`--chaos`: faults on purpose, as many as were asked for, the same for the same seed; a slip of the pen is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import plan

from instrument import InstrumentError
from instrument.stream import encode_end, encode_image
from sim_instrument.__main__ import main
from sim_instrument.chaos import Chaos, ChaoticMicroscope, ChaoticWire, chaos_from
from sim_instrument.column import Column
from sim_instrument.specimen import SpecimenOptions

EVERYTHING = "drop=0.01,dup=0.01,late=2s,lag=1,nan=1e-6,die_after=5000,flicker=0.1"


def test_every_fault_of_the_readme_is_understood():
    chaos = chaos_from(EVERYTHING)
    assert chaos == Chaos(drop=0.01, dup=0.01, late=2, lag=1, nan=1e-6, die_after=5000, flicker=0.1)
    assert chaos_from(" late = 0.5 s , drop=1") == Chaos(drop=1, late=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dorp=0.1", "'dorp' is no fault; known: drop, dup, late, lag, nan, die_after, flicker"),
        ("drop", "'drop' is without a number"),
        ("drop=0.1,drop=0.2", "there twice"),
        ("drop=1.5", "drop=1.5: Input should be less than or equal to 1"),
        ("lag=0.5", "lag=0.5: .*integer"),
        ("late=soon", "late=soon: .*number"),
        ("nan=nan", "nan=nan: "),
        ("", "names no fault"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_is_served(
    text: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    with pytest.raises(InstrumentError, match=said):
        chaos_from(text)
    assert main(["simulate", "--chaos", text, "--state-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --chaos")


def test_frames_are_lost_and_doubled_on_the_wire_and_ends_are_not():
    pattern = np.zeros((8, 8), np.uint16)
    messages = [encode_image(1, "a1", index, pattern, 0.0, 1.0) for index in range(2000)]
    wire = ChaoticWire(Chaos(drop=0.1, dup=0.2), seed=3)
    sent = [len(list(wire(message))) for message in messages]
    assert 150 < sent.count(0) < 250
    assert 300 < sent.count(2) < 420
    again = ChaoticWire(Chaos(drop=0.1, dup=0.2), seed=3)
    assert [len(list(again(message))) for message in messages] == sent
    assert list(ChaoticWire(Chaos(drop=1.0, dup=1.0))(encode_end(1, "a1"))) == [encode_end(1, "a1")]


async def test_pixels_hold_rubbish_and_a_frame_is_late():
    column = Column.ideal(detector_pixels=32, angular_pixel=4.384)
    microscope = ChaoticMicroscope(
        SpecimenOptions(material="vacuum"), column, chaos=Chaos(nan=0.05, late=0.01, lag=2, flicker=0.3), seed=1
    )
    try:
        assert (microscope.column.frame_lag, microscope.column.flicker) == (2, 0.3)
        scan = plan("a1", 6, 180, 180, dose=2000)
        frames = [frame async for frame in microscope.acquire(scan)]
    finally:
        microscope.close()
    assert [frame.index for frame in frames] == list(range(scan.n_positions))
    rubbish = np.mean([frame.pattern == 65535 for frame in frames])
    assert 0.03 < rubbish < 0.07
