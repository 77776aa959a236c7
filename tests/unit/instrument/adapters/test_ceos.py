"""A CEOS corrector: notation and units, aberrations measured and set, and what its gateway says when it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from examples import plan
from fake_ceos import FakeCeos
from fake_parts import FakeCamera, FakeColumn, FakeScan

from instrument import optics
from instrument.adapters.ceos import CeosCorrector, CeosError, CorrectedColumn, from_ceos, to_ceos
from instrument.adapters.composed import ComposedMicroscope
from instrument.errors import BadInputError


@pytest.fixture
async def gateway() -> AsyncIterator[FakeCeos]:
    async with FakeCeos() as fake:
        yield fake


def test_coefficients_of_ceos_bend_the_wave_as_those_of_krivanek_do():
    rng = np.random.default_rng(3)
    ceos = {name: complex(*rng.normal(size=2)) * 1e-8 for name in ("C1", "A1", "B2", "A2", "C3", "S3", "A3")}
    ceos |= {name: complex(ceos[name].real) for name in ("C1", "C3")}
    w = 1e-3 * (rng.uniform(-20, 20, 50) + 1j * rng.uniform(-20, 20, 50))
    bar = w.conj()
    path = (
        (w * bar * ceos["C1"] / 2 + bar**2 * ceos["A1"] / 2)
        + (w**2 * bar * ceos["B2"] + bar**3 * ceos["A2"] / 3)
        + ((w * bar) ** 2 * ceos["C3"] / 4 + w**3 * bar * ceos["S3"] + bar**4 * ceos["A3"] / 4)
    ).real
    wavelength = optics.wavelength(80e3)
    k = w / wavelength
    ours = from_ceos(ceos)
    phase = optics.aberration_phase(k.imag, k.real, 80e3, ours)
    np.testing.assert_allclose(phase, 2 * np.pi / wavelength * path * 1e10, rtol=1e-6)
    for name in ("C10", "C12", "C21", "C23", "C30", "C32", "C34"):
        theirs = dict(C10="C1", C12="A1", C21="B2", C23="A2", C30="C3", C32="S3", C34="A3")[name]
        assert to_ceos(name, ours) == pytest.approx(ceos[theirs])


async def test_defocus_and_aberrations_are_measured_set_and_measured_again(gateway: FakeCeos):
    corrector = CeosCorrector(port=gateway.port)
    assert (await corrector.info())["correctorType"] == "CESCOR"
    assert (await corrector.measure())["C10"] == pytest.approx(-300)
    found = await corrector.measure("Standard", angle=18.0)
    assert found["C12"] == pytest.approx(50)
    assert found["phi12"] == pytest.approx(np.arctan2(3, 4) / 2)
    assert (found["C21"], found["C30"]) == (pytest.approx(300), pytest.approx(2e4))
    await corrector.set_defocus(200.0)
    await corrector.set({"C12": 10.0, "phi12": 0.5, "C21": 0.0}, fine=True)
    assert gateway.true["C1"] == pytest.approx(-20e-9)
    assert abs(gateway.true["B2"]) < 1e-15
    again = await corrector.measure()
    assert (again["C10"], again["C12"], again["phi12"]) == (pytest.approx(-200), pytest.approx(10), pytest.approx(0.5))
    assert gateway.asked[2] == ("acquireTableau", {"tabType": "Standard", "angle": 18.0})
    assert gateway.asked[-2][1]["select"] == "fine"


async def test_an_element_that_does_too_little_is_seen_by_measuring(gateway: FakeCeos):
    gateway.gain = 0.9
    corrector = CeosCorrector(port=gateway.port)
    await corrector.measure()
    await corrector.set_defocus(0.0)
    assert corrector.read()["C10"] == pytest.approx(0)
    assert (await corrector.measure())["C10"] == pytest.approx(-30)


async def test_what_was_never_measured_or_does_not_exist_is_not_set(gateway: FakeCeos):
    corrector = CeosCorrector(port=gateway.port)
    with pytest.raises(CeosError, match="C10 has not been measured yet"):
        await corrector.set_defocus(100.0)
    with pytest.raises(BadInputError, match=r"is called C99, phi13; legal: C10, C12"):
        await corrector.set({"C99": 1.0, "phi13": 0.0})
    assert gateway.asked == []


@pytest.mark.parametrize("garbage", [b"nonsense", b"12:{}", b"99999999:", b"2:{}x", b"3:[1],", b"", b"5:{nan},"])
async def test_an_answer_that_is_none_is_named(gateway: FakeCeos, garbage: bytes):
    gateway.garbage = garbage
    with pytest.raises(CeosError, match=rf"127\.0\.0\.1:{gateway.port}, getInfo: .*no JSON-RPC in a netstring"):
        await CeosCorrector(port=gateway.port).info()


async def test_refusals_silence_and_absence_are_named(gateway: FakeCeos):
    corrector = CeosCorrector(port=gateway.port, measuring=0.05)
    with pytest.raises(CeosError, match="acquireTableau: Server error: cannot acquireTableau"):
        await corrector.measure("Quick")  # type: ignore[arg-type]
    gateway.silent = True
    with pytest.raises(CeosError, match=r"measureC1A1: no answer within 0\.05 s"):
        await corrector.measure()
    with pytest.raises(CeosError, match="does the RPC gateway run"):
        await CeosCorrector(port=9).info()


async def test_a_microscope_whose_defocus_the_corrector_sets(gateway: FakeCeos):
    corrector, camera = CeosCorrector(port=gateway.port), FakeCamera()
    await corrector.measure()
    corrected = CorrectedColumn(FakeColumn(), corrector)
    microscope = ComposedMicroscope("corrected", corrected, FakeScan(camera), camera)
    frames = [frame async for frame in microscope.acquire(plan(size=4.0, dose=2e4, defocus=150.0))]
    assert len(frames) == 16
    assert gateway.true["C1"] == pytest.approx(-15e-9)
    assert (await microscope.health()).blanked
    gateway.garbage = b"?"
    assert not (await corrected.health()).conditions[-1].ok
