"""A campaign folder may come from anybody: what stands in it is never run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.cli.simulator import again, simulator_command
from agent.errors import BadInputError

STATE = Path("/campaigns/mine/instrument")


def test_the_demos_simulator_is_started_again_in_the_folder_as_it_lies_now():
    began = simulator_command(Path("/elsewhere"), "--column", "random-7", "--seed", "7")
    assert again(["/another/python", *began[1:]], STATE) == simulator_command(
        STATE, "--column", "random-7", "--seed", "7"
    )
    assert again(began, STATE)[0] == sys.executable


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/touch", "/tmp/gotcha"],
        [sys.executable, "-c", "import os"],
        [sys.executable, "-m", "os", "simulate"],
        [*simulator_command(STATE), "--watchdog", "os:abort"],
        [*simulator_command(STATE), "--column", "../x"],
        [*simulator_command(STATE), "--seed", "1; rm -rf /"],
        [],
    ],
)
def test_any_other_command_in_the_folder_is_not_run(command: list[str]):
    with pytest.raises(BadInputError, match="is not run; start the instrument yourself"):
        again(command, STATE)
