"""A campaign's acquisitions as a control system commands them: settings one by one, refusals, results, and one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from fake_parts import FakeCamera, FakeColumn, FakeScan, counts_of

from instrument import InstrumentClient, InstrumentServer
from instrument.adapters.composed import ComposedMicroscope
from instrument.errors import BudgetError, ConflictError, OutOfLimitsError, SafeStateError
from instrument.facility.steps import AcquisitionSteps


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[InstrumentClient]:
    camera = FakeCamera()
    microscope = ComposedMicroscope("composed", FakeColumn(), FakeScan(camera), camera)
    async with (
        InstrumentServer(microscope, state_dir=tmp_path) as server,
        InstrumentClient(server.control, timeout=5.0) as connected,
    ):
        yield connected


async def opened(client: InstrumentClient, electrons: float = 1e8) -> AcquisitionSteps:
    steps = AcquisitionSteps(client, "c", electrons)
    await steps.open()
    for name, value in {"height": 3.0, "width": 3.0, "step": 1.0, "dose": 2e4, "defocus": -100.0}.items():
        steps.set(name, value)
    return steps


async def test_what_is_set_is_what_is_exposed(client: InstrumentClient):
    steps = await opened(client)
    begun: list[str] = []

    async def begin(name: str) -> None:
        begun.append(name)

    first, second = await steps.acquire(begin), await steps.acquire(begin)
    assert (begun, first.id, second.id, first.frames) == (["c-1", "c-2"], "c-1", "c-2", 9)
    assert (first.picture == sum(counts_of(number).astype(float) for number in range(9))).all()
    assert first.counts == pytest.approx(np.mean([counts_of(number).sum() for number in range(9)]))
    entries = await client.exposures("c")
    assert [each.plan.defocus for each in entries] == [-100.0, -100.0]
    assert steps.left == pytest.approx(1e8 - first.electrons - second.electrons)
    assert (await client.status()).holder == ""


async def test_another_process_goes_on_with_the_numbers(client: InstrumentClient):
    await (await opened(client)).acquire()
    assert (await (await opened(client)).acquire()).id == "c-2"


async def test_what_it_begins_with_can_be_exposed(client: InstrumentClient):
    steps = AcquisitionSteps(client, "c", 1e8)
    await steps.open()
    assert (await steps.acquire()).frames > 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("defocus", 1e9, "defocus of 1e+09 Å is not possible here; legal: -1000 … 1000 Å"),
        ("step", 0.0, "step of 0 Å is not possible here; legal: 0.2 … 10 Å"),
        ("y", -1.0, "y of -1 Å is not possible here; legal: 0 … 500 Å"),
        ("width", 501.0, "width of 501 Å is not possible here; legal: 0.2 … 500 Å"),
        ("dose", float("nan"), "dose of nan e/Å² is not possible here"),
        ("x", float("nan"), "x of nan Å is not possible here"),
    ],
)
async def test_an_illegal_setting_is_refused_and_changes_nothing(
    client: InstrumentClient, name: str, value: float, told: str
):
    steps = await opened(client)
    before = dict(steps.values)
    with pytest.raises(OutOfLimitsError) as refusal:
        steps.set(name, value)
    assert refusal.value.message.startswith(told)
    assert steps.values == before


async def test_settings_that_do_not_go_together_a_spent_campaign_and_safe_are_refused(client: InstrumentClient):
    steps = await opened(client, electrons=3e5)
    steps.set("step", 5.0)
    with pytest.raises(OutOfLimitsError, match="3 × 3 Å holds no position at a step of 5 Å"):
        await steps.acquire()
    steps.set("step", 1.0)
    await steps.acquire()
    with pytest.raises(BudgetError):
        await steps.acquire()
    await client.blank()
    with pytest.raises(SafeStateError, match="blanked by hand"):
        await steps.acquire()


async def test_a_second_acquisition_at_once_is_refused(client: InstrumentClient):
    steps = await opened(client)
    running = asyncio.ensure_future(steps.acquire())
    await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="an acquisition runs"):
        await steps.acquire()
    assert (await running).frames == 9
