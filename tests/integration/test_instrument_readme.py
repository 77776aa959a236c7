"""The adapter in instrument/README.md is a Microscope: served, it delivers the plan that was asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_stripes import Frames, make_plan

from instrument import InstrumentClient, InstrumentServer, Microscope, SafeStateError

README = Path(__file__).parents[2] / "instrument" / "README.md"


def adapter() -> Microscope:
    """What the example's factory makes."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), namespace)  # noqa: S102 - the README is ours
    microscope = namespace["make"]()
    assert isinstance(microscope, Microscope)
    return microscope


async def test_the_adapter_in_the_readme_can_be_served(tmp_path: Path):
    plan = make_plan(size=4.0, dose=2e4)
    async with (
        InstrumentServer(adapter(), state_dir=tmp_path) as server,
        InstrumentClient(server.control, timeout=5.0) as client,
    ):
        assert client.server_name == "lab microscope"
        await client.open_campaign("c", 1e6)
        async with client.lease():
            reservation = await client.prepare(plan)
            assert reservation.check.electrons == 16 * 2e4
            frames = Frames()
            outcome = await client.acquire("a1", frames)
            assert (outcome.state, outcome.electrons) == ("done", 16 * 2e4)
            assert sorted(frames.patterns) == list(range(16))
            counts = np.array(list(frames.patterns.values()))
            assert abs(counts.sum() / (16 * 2e4) - 1) < 0.01
            assert (await client.health()).blanked


async def test_the_adapter_in_the_readme_stops_when_it_is_blanked(tmp_path: Path):
    async with (
        InstrumentServer(adapter(), state_dir=tmp_path) as server,
        InstrumentClient(server.control, timeout=5.0) as client,
    ):
        await client.open_campaign("c", 1e9)
        async with client.lease():
            await client.prepare(make_plan(size=40.0, dose=2e4))

            class BlankAfterThree(Frames):
                def frame(self, index: int, *rest: Any) -> None:
                    super().frame(index, *rest)
                    if index == 2:
                        server.stop_beam("enough")

            frames = BlankAfterThree()
            outcome = await client.acquire("a1", frames)
            assert (outcome.state, outcome.reason) == ("aborted", "enough")
            assert len(frames.patterns) < 1600
            assert (await client.health()).blanked
            await client.blank()
            with pytest.raises(SafeStateError):
                await client.prepare(make_plan("a2", dose=2e4))
