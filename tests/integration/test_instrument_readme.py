"""The adapter in instrument/README.md is a Microscope: served, it delivers the plan that was asked for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_stripes import Frames, make_plan

from instrument import InstrumentClient, InstrumentServer, Microscope, SafeStateError
from instrument.__main__ import main

README = Path(__file__).parents[2] / "instrument" / "README.md"


def example() -> str:
    """The module in the README."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(block)


def commands() -> list[list[str]]:
    """What the steps of the README tell to call, without `python -m instrument`."""
    (section,) = re.findall(r"## Add a microscope\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(each) for each in re.findall(r"`python -m instrument ([^`]*)`", section)]


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module of the README."""
    (tmp_path / "mylab.py").write_text(example(), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mylab", None)


def test_the_commands_of_the_readme_try_the_adapter(mylab: Path, capsys: pytest.CaptureFixture[str]):
    tried = [each for each in commands() if each[0] == "check"]
    assert [each[2] for each in tried] == ["--no-beam", "--dose"]
    for each in tried:
        assert main(each) == 0, capsys.readouterr().out
    assert "nothing was exposed" in capsys.readouterr().out


async def test_the_command_of_the_readme_serves_the_adapter(mylab: Path):
    (told,) = [each for each in commands() if each[0] == "serve"]
    command = [str(mylab / "state") if each.startswith("/var") else each for each in told]
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "instrument", *command),
        cwd=mylab,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{README.parents[1]}{os.pathsep}{mylab}"},
    )
    try:
        assert server.stdout is not None
        greeting = json.loads(await asyncio.wait_for(server.stdout.readline(), 60))
        async with InstrumentClient(greeting["control"], timeout=20.0) as client:
            assert client.server_name == "lab microscope"
            assert (await client.health()).blanked
    finally:
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 20) == 0


def adapter() -> Microscope:
    """What the example's factory makes."""
    block = example()
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
