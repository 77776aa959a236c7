# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated microscope keeps its promises as a `Microscope`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest
from numpy.typing import NDArray

from instrument import (
    AcquisitionPlan,
    BlankedError,
    ConflictError,
    MalformedRequestError,
    Microscope,
    OutOfLimitsError,
    Rectangle,
)
from sim_instrument import Column, SimulatedMicroscope, SpecimenOptions, build_specimen
from sim_instrument.__main__ import build_parser
from sim_instrument.options import column_from
from sim_instrument.simulation import Exposure

VACUUM = SpecimenOptions(material="vacuum")
SMALL = {"detector_pixels": 64, "angular_pixel": 2.192}


def plan(n: int = 4, **changes: Any) -> AcquisitionPlan:
    values = {"size": n, "y": 180, "x": 180, "defocus": 200.0, "dose": 2000.0}
    return examples.plan(**(values | changes))


@pytest.fixture
async def microscope() -> AsyncIterator[SimulatedMicroscope]:
    microscope = SimulatedMicroscope(VACUUM, Column(**SMALL))
    yield microscope
    microscope.close()


async def frames(microscope: SimulatedMicroscope, scan: AcquisitionPlan) -> NDArray[np.uint16]:
    stack = [frame async for frame in microscope.acquire(scan)]
    assert [frame.index for frame in stack] == list(range(scan.n_positions))
    return np.array([frame.pattern for frame in stack])


async def test_is_a_microscope_that_tells_nominal_values_only(microscope: SimulatedMicroscope) -> None:
    assert isinstance(microscope, Microscope)
    description = await microscope.describe()
    column = microscope.column
    assert description.scan_rotation == pytest.approx(column.rotation - column.rotation_error)
    assert description.scan_rotation != column.rotation
    assert len(description.detector.dead_pixels) == column.dead_pixels
    wire = description.model_dump_json()
    assert all(name not in wire for name in ("defocus_offset", "aberrations", "C30", "drift", "source_size"))
    assert description.area.height > 250


async def test_an_uncorrected_lens_is_advertised_as_its_maker_states_it() -> None:
    column = Column(aberrations={"C30": 1.218e7, "C12": 20.0}, **SMALL)
    microscope = SimulatedMicroscope(VACUUM, column)
    description = await microscope.describe()
    microscope.close()
    assert description.spherical_aberration == 1.2e7
    assert description.nominal_aberrations == {"C30": 1.2e7}
    assert Column(**SMALL).nominal_spherical_aberration == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 0.1, "dose": 1e6}, "step of 0.1 Å"),
        ({"defocus": 1500.0}, "-1000 … 1000 Å"),
        ({"dose": 1e8}, "dose of 1e.08"),
        ({"step": 0.5, "dose": 1000.0}, "frames/s.*at least 4993 e/Å².*at least 1.12 Å"),
        ({"dose": 8e6}, "pattern"),
        ({"field": Rectangle(y=10, x=180, height=4, width=4)}, "leaves the area"),
    ],
)
async def test_refuses_what_it_cannot_do(microscope: SimulatedMicroscope, changes: dict, words: str) -> None:
    with pytest.raises(OutOfLimitsError, match=words):
        await microscope.check(plan(**changes))
    with pytest.raises(OutOfLimitsError, match=words):
        await anext(microscope.acquire(plan(**changes)))


async def test_cost_counts_flyback_and_settling(microscope: SimulatedMicroscope) -> None:
    scan = plan(n=10)
    cost = await microscope.check(scan)
    column = microscope.column
    current = column.electrons_per_second
    assert cost.dwell_time == pytest.approx(2000.0 / current)
    assert cost.electrons == pytest.approx(scan.electrons + 10 * column.flyback * current)
    assert cost.duration == pytest.approx(cost.electrons / current + column.settle)
    assert cost.bytes == 100 * 64 * 64 * 2
    assert cost.illuminated.contains(scan.field.grown(0.0214 * 200))


async def test_same_seed_and_id_give_the_same_counts(microscope: SimulatedMicroscope) -> None:
    first = await frames(microscope, plan())
    again = SimulatedMicroscope(VACUUM, Column(**SMALL))
    assert np.array_equal(first, await frames(again, plan()))
    assert not np.array_equal(first, await frames(again, plan(id="a2")))
    again.close()
    other = SimulatedMicroscope(VACUUM, Column(**SMALL), seed=1)
    assert not np.array_equal(first, await frames(other, plan()))
    other.close()


async def test_blank_stops_the_acquisition_and_the_next_one_runs(microscope: SimulatedMicroscope) -> None:
    assert (await microscope.health()).blanked
    delivered: list[int] = []

    async def blank_after_five() -> None:
        async with aclosing(microscope.acquire(plan(n=40))) as stream:
            async for frame in stream:
                delivered.append(frame.index)
                assert not (await microscope.health()).blanked
                if len(delivered) == 5:
                    await asyncio.to_thread(microscope.blank)

    with pytest.raises(BlankedError, match="after 5 of 1600"):
        await blank_after_five()
    assert delivered == [0, 1, 2, 3, 4]
    assert (await microscope.health()).blanked
    assert len(await frames(microscope, plan(n=4, id="a2"))) == 16


async def test_closing_the_iterator_turns_the_beam_off(microscope: SimulatedMicroscope) -> None:
    async with aclosing(microscope.acquire(plan(n=40))) as stream:
        await anext(stream)
        with pytest.raises(ConflictError):
            await anext(microscope.acquire(plan(id="a2")))
    assert (await microscope.health()).blanked
    assert len(await frames(microscope, plan(id="a2"))) == 16


async def test_real_time_honours_the_clock() -> None:
    now = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    microscope = SimulatedMicroscope(VACUUM, Column(**SMALL), real_time=True, clock=lambda: now, sleep=sleep)
    scan = plan(n=20)
    await frames(microscope, scan)
    duration = (await microscope.check(scan)).duration
    assert now - 100.0 == pytest.approx(duration - microscope.column.flyback, rel=1e-6)
    microscope.close()


async def test_dose_is_booked_where_the_beam_was(tmp_path: Path) -> None:
    """An aborted scan counts as far as it got, in the next process too."""
    first = SimulatedMicroscope(VACUUM, Column(**SMALL), state_dir=tmp_path)
    async with aclosing(first.acquire(plan(n=20))) as stream:
        async for frame in stream:
            if frame.index == 200:
                break
    first.close()
    second = SimulatedMicroscope(VACUUM, Column(**SMALL), state_dir=tmp_path)
    dose = second.dose
    assert dose[185, 190] == pytest.approx(2000.0, rel=1e-3)
    assert dose[199, 190] == pytest.approx(0, abs=1e-6)
    second.close()


async def test_two_passes_cost_one_pass_and_its_flyback_and_are_scanned_one_after_the_other() -> None:
    still = Column(**SMALL, jitter=0.0, drift=2.0, drift_direction=0.0)
    microscope = SimulatedMicroscope(VACUUM, still)
    once, twice = plan(n=10, dose=4000.0), plan(n=10, dose=4000.0, passes=2)
    one, two = await microscope.check(once), await microscope.check(twice)
    flyback = still.flyback * still.electrons_per_second
    assert two.electrons == pytest.approx(one.electrons + 10 * flyback)
    assert two.dwell_time == pytest.approx(one.dwell_time / 2)
    assert len(await frames(microscope, twice)) == 200
    assert microscope.beam_time() * still.electrons_per_second == pytest.approx(two.electrons - flyback, rel=0.01)
    moved = Exposure(twice, microscope.specimen, still).positions - twice.scan_positions()
    between = (moved[100:] - moved[:100]).mean(axis=0)
    np.testing.assert_allclose(between, [0.0, 2.0 * (two.duration - still.settle) / 2], atol=1e-9)
    with pytest.raises(OutOfLimitsError, match=r"in two passes at a step.*at least 1.58 Å, or one pass"):
        await microscope.check(plan(dose=1000.0, passes=2))
    microscope.close()


async def test_the_jitter_of_two_passes_is_drawn_twice() -> None:
    twice = plan(n=10, passes=2)
    moved = Exposure(twice, build_specimen(VACUUM), Column(**SMALL, drift=0.0, jitter=0.1)).positions
    first, second = (moved - twice.scan_positions()).reshape(2, -1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.25
    assert np.std(first) == pytest.approx(0.1, rel=0.2)


async def test_scan_patterns_pay_for_the_flyback_that_they_have(microscope: SimulatedMicroscope) -> None:
    column = microscope.column
    assert set((await microscope.describe()).scan_patterns) == {"raster", "serpentine", "spiral", "positions"}
    places = tuple(map(tuple, plan(n=10).scan_positions()[::7].tolist()))
    for lines, scan in (
        (10, plan(n=10)),
        (1, plan(n=10, pattern="serpentine")),
        (2, plan(n=10, dose=4000.0, pattern="spiral", passes=2)),
        (1, plan(n=10, positions=places)),
    ):
        cost = await microscope.check(scan)
        flyback = lines * column.flyback * column.electrons_per_second
        assert cost.electrons == pytest.approx(scan.electrons + flyback), scan.pattern
        assert cost.duration == pytest.approx(cost.electrons / column.electrons_per_second + column.settle)
        assert len(await frames(microscope, scan)) == scan.n_positions


async def test_rows_of_a_serpentine_wait_for_the_line_trigger() -> None:
    microscope = SimulatedMicroscope(VACUUM, Column(**SMALL, line_trigger=50.0))
    scan = plan(n=10, pattern="serpentine")
    cost = await microscope.check(scan)
    assert cost.duration - microscope.column.settle == pytest.approx(10 / 50)
    assert (await microscope.describe()).line_trigger == 50.0
    microscope.close()


@pytest.mark.parametrize("pattern", ["serpentine", "spiral"])
async def test_each_frame_of_a_pattern_shows_the_place_that_the_plan_says(pattern: str) -> None:
    """Descan moves the pattern with the position: the frames tell where the beam was."""
    column = Column.ideal(**SMALL, descan_y=12.0, descan_x=12.0)
    microscope = SimulatedMicroscope(VACUUM, column)
    scan = plan(n=7, dose=20_000.0, pattern=pattern)
    stack = (await frames(microscope, scan)).astype(float)
    microscope.close()
    index = np.arange(64) - 32
    total = stack.sum(axis=(1, 2))
    seen = np.stack([(stack.sum(2) @ index) / total, (stack.sum(1) @ index) / total], axis=1)
    where = scan.scan_positions() - scan.scan_positions().mean(axis=0)
    np.testing.assert_allclose(seen - seen.mean(axis=0), 2 * where, atol=0.5)


async def test_another_aperture_gives_another_disc_and_another_current() -> None:
    microscope = SimulatedMicroscope(VACUUM, Column(apertures=(10.7, 21.4), **SMALL))
    told = await microscope.describe()
    assert told.semiangles == (10.7, 21.4)
    wide, narrow = plan(), plan(semiangle=10.7, dose=2000.0)
    costs = [await microscope.check(scan) for scan in (wide, narrow)]
    assert costs[1].dwell_time == pytest.approx(4 * costs[0].dwell_time)
    besides = [cost.electrons - scan.electrons for cost, scan in zip(costs, (wide, narrow), strict=True)]
    assert besides[0] == pytest.approx(4 * besides[1])  # of flyback, with the beam on
    radii = np.hypot(*np.meshgrid(*(np.arange(64) - 32,) * 2)) * 2.192
    for scan, angle in ((wide, 21.4), (narrow, 10.7)):
        mean = (await frames(microscope, scan)).mean(axis=0)
        inside = mean[radii < angle + 2 * 2.192].sum() / mean.sum()
        assert inside > 0.98, angle
        assert mean[radii < angle - 2 * 2.192].mean() > 20 * mean[radii > angle + 3 * 2.192].mean()
    with pytest.raises(OutOfLimitsError, match=r"semiangle of 30 mrad is not possible here; legal: 10\.7, 21\.4 mrad"):
        await microscope.check(plan(semiangle=30.0))
    microscope.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"apertures": (10.0, 30.0)}, "one of them"),
        ({"apertures": (21.4, 50.0), "detector_pixels": 32}, "disc of 50 mrad does not fit"),
        ({"apertures": (10.0, 21.4), "aperture_currents": (1.0,)}, "1 currents for 2 apertures"),
        ({"apertures": (10.0, 21.4), "aperture_currents": (1.0, 3.0)}, "3 pA through the aperture that is in at first"),
    ],
)
def test_a_column_with_impossible_apertures_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Column(**({**SMALL, **changes}))


def test_apertures_and_their_currents_are_options_of_the_command_line() -> None:
    def column(text: str) -> Column:
        return column_from(build_parser().parse_args(["simulate", "--apertures", text]))

    told = column("15:1.2,21.4:2,30:3.5")
    assert [told.through(angle).beam_current for angle in told.apertures] == [1.2, 2.0, 3.5]
    assert column("15,21.4").through(15.0).beam_current == pytest.approx(2.0 * (15 / 21.4) ** 2)
    for text, words in (
        ("15,x", "not semi-angles"),
        ("15:1,21.4", "1 of 2 apertures have a current"),
        ("15,30", "21.4 mrad"),
    ):
        with pytest.raises(MalformedRequestError, match=words):
            column(text)
