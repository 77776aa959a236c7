"""The service units call commands that exist, are understood by systemd, and give no more rights than they need."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from agent.cli.app import app
from instrument.__main__ import _build_parser

ROOT = Path(__file__).parents[3]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
BLANKING = [unit for unit in UNITS if unit.stem.endswith(("instrument", "watchdog"))]
MOST_EXPOSED = 2.0
"""Of systemd's scale from 0 to 10."""


def commands(unit: Path) -> dict[str, str]:
    text = unit.read_text(encoding="utf-8").replace("\\\n", " ")
    return dict(re.findall(r"^(ExecStart|ExecStopPost)=(.*)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("unit", BLANKING, ids=lambda path: path.name)
def test_a_unit_starts_what_there_is_and_blanks_after_any_end(unit: Path) -> None:
    found = commands(unit)
    assert set(found) == {"ExecStart", "ExecStopPost"}
    arguments = {name: shlex.split(command.partition("-m instrument ")[2]) for name, command in found.items()}
    parsed = {name: _build_parser().parse_args(each) for name, each in arguments.items()}
    assert parsed["ExecStopPost"].command == "blank"


def test_the_server_uses_the_socket_of_the_watchdog() -> None:
    (socket,) = {path for unit in UNITS for path in re.findall(r"/run/\S+\.sock", unit.read_text(encoding="utf-8"))}
    assert socket == "/run/ptychopilot/watchdog.sock"


@pytest.mark.parametrize(
    ("unit", "verbs"), [("agent@", ["run", "resume"]), ("serve", ["serve"]), ("dashboard", ["dashboard"])]
)
def test_agent_and_page_are_started_with_options_that_they_know(unit: str, verbs: list[str]) -> None:
    (command,) = commands(ROOT / "deploy" / "systemd" / f"ptychopilot-{unit}.service").values()
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    known = {option for verb in verbs for each in group.commands[verb].params for option in each.opts}
    assert all(f" {verb} " in command for verb in verbs)
    assert set(re.findall(r"--[a-z-]+", command)) <= known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")
def test_systemd_understands_the_units_and_finds_them_closed_enough(tmp_path: Path) -> None:
    for unit in UNITS:
        here = unit.read_text(encoding="utf-8").replace("/opt/ptychopilot/.venv/bin/python", sys.executable)
        here = here.replace("/opt/ptychopilot/.venv/bin/ptychopilot", sys.executable)
        (tmp_path / unit.name.replace("@", "@mos2")).write_text(here, encoding="utf-8")
    for unit in sorted(tmp_path.iterdir()):
        # It prints what is wrong and exits with 0.
        said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
        assert (said.stdout + said.stderr).strip() == "", unit.name
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
        assert found is not None, rated.stderr
        assert float(found[1]) <= MOST_EXPOSED, rated.stdout
