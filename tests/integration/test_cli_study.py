"""`ptychopilot study` on a list of columns, from the command line to the records."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.cli.app import app
from agent.cli.errors import run_guarded

TINY = """
- name: tiny
  seed: 3
  specimen: {material: 2h-mos2, size: 300}
  column: {detector_pixels: 64, angular_pixel: 2.192, source_size: 0, energy_spread: 0, max_defocus: 150}
- name: no such file
  seed: 4
  specimen: {structure: nowhere.cif}
"""


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    path = tmp_path / "columns.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def test_a_calibration_is_held_against_the_truth(columns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = columns.with_name("out.json")
    arguments = ["study", "calibration", "--columns", columns, "--json", out, "--steps", "2", "--defoci", "60"]
    assert run_guarded(app, [*map(str, arguments), "--doses", "2e3"]) == 0
    printed = capsys.readouterr().out
    assert "defocus not found" in printed
    first, second = json.loads(out.read_text(encoding="utf-8"))
    assert {
        "name", "seed", "nominal_defocus", "true_defocus", "defocus", "defocus_sd", "rotation_error", "rotation_sd", "found"
    } <= first.keys()  # fmt: skip
    # 1.02 times the set-point and 25 Å more at the entrance surface, and half a bilayer below it
    assert (first["nominal_defocus"], first["true_defocus"]) == (60, pytest.approx(86.2 - 4.7, abs=0.1))
    assert abs(first["defocus"] - first["true_defocus"]) < 15
    assert abs(first["rotation_error"]) < 2
    assert first["right_hand"]
    # the other column comes to nothing, and the study goes on
    assert (second["name"], second["found"]) == ("no such file", False)
    assert "nowhere.cif" in second["error"]


def test_ctrl_c_keeps_what_was_done(columns: Path) -> None:
    failing, tiny = TINY.partition("- name: no such file")[::-2]
    columns.write_text("- name: no such file" + failing + tiny, encoding="utf-8")  # the first record comes at once
    out = columns.with_name("out.json")
    start = [sys.executable, "-c", "from agent.cli import main; main()"]
    command = [*start, "study", "calibration", "--columns", str(columns), "--json", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not out.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=60)
    assert process.returncode == 4, error
    assert "after 1 acquisition" in error
    assert "no such file failed: " in printed
    assert [record["name"] for record in json.loads(out.read_text(encoding="utf-8"))] == ["no such file"]


def test_a_list_that_cannot_be_used_is_refused_in_a_sentence(columns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns.write_text("- {name: a, column: {volts: 80}}", encoding="utf-8")
    assert run_guarded(app, ["study", "score", "--columns", str(columns)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "volts" in error


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--steps", "0.5,none", "--steps"), ("--doses", "-1", "--doses"), ("--json", "no/such/folder/a.json", "a.json")],
)
def test_options_are_checked_before_anything_is_simulated(
    option: str, value: str, named: str, columns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(app, ["study", "score", "--columns", str(columns), f"{option}={value}"]) == 2
    assert named in capsys.readouterr().err
