"""Every Python example in the README runs, in order, as a reader would type them; every shell verb exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(README.parent)
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)  # noqa: S102 – the README is ours
    assert "bit/Å²" in capsys.readouterr().out


def test_verbs_in_the_readme_exist() -> None:
    from typer.testing import CliRunner

    from agent.cli.app import app

    verbs = set(re.findall(r"bin/ptychopilot (\w+)", README.read_text(encoding="utf-8")))
    assert verbs >= {"doctor", "init", "run", "resume", "replay"}
    for verb in verbs - {"replay"}:  # replay passes its help on to the instrument's own process
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb
