"""What the rooms' READMEs show is true: examples run as a reader would type them, tables agree with the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.cli.app import app
from agent.cli.errors import ExitCode
from agent.status.leaves import LEAVES

AGENT = Path(__file__).parents[3] / "agent"


@pytest.mark.parametrize("room", ["scoring", "processing", "status"])
def test_examples_run(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme = AGENT / room / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(readme), "exec"), namespace)  # noqa: S102 – the README is ours
    assert capsys.readouterr().out


def test_every_verb_and_exit_code_is_in_the_manual() -> None:
    text = (AGENT / "cli" / "README.md").read_text(encoding="utf-8")
    verbs = {
        verb for row in re.findall(r"^\| (`.*?`) \|", text, flags=re.MULTILINE) for verb in re.findall(r"`(\w+)`", row)
    }
    assert verbs == {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    codes = {name: int(code) for code, name in re.findall(r"^\| (\d) \| ([A-Z_]+) \|", text, flags=re.MULTILINE)}
    assert codes == {code.name: code.value for code in ExitCode}


def test_every_topic_is_in_the_manual() -> None:
    text = (AGENT / "status" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z][^|]*`) \| (?:yes|no|never) \|", text, flags=re.MULTILINE)
    described = {re.sub(r"<\w+>", "*", topic) for row in rows for topic in re.findall(r"`([^`]+)`", row)}
    described = {"image/*" if topic.startswith("image/") else topic for topic in described}
    assert described == {re.sub(r"\{\w+\}", "*", leaf.address) for leaf in LEAVES}
