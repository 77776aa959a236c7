"""The service units in deploy/ call commands that exist, with options that they know."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from instrument.__main__ import _build_parser

UNITS = sorted((Path(__file__).parents[3] / "deploy" / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_what_there_is_and_blanks_after_any_end(unit: Path):
    text = unit.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = dict(re.findall(r"^(ExecStart|ExecStopPost)=\S+/python -m instrument (.*)$", text, flags=re.MULTILINE))
    assert set(commands) == {"ExecStart", "ExecStopPost"}
    parsed = {name: _build_parser().parse_args(shlex.split(command)) for name, command in commands.items()}
    assert parsed["ExecStopPost"].command == "blank"


def test_the_server_uses_the_socket_of_the_watchdog():
    (socket,) = {path for unit in UNITS for path in re.findall(r"/run/\S+\.sock", unit.read_text(encoding="utf-8"))}
    assert socket == "/run/ptychopilot/watchdog.sock"
