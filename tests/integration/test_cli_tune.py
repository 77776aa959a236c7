"""`ptychopilot tune` from a file to a settings file, looked at, and reconstructed with what it found."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from phantom import SEMIANGLE, VOLTAGE, experiment, raster

from agent.cli import main


def call(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def test_a_file_is_tuned_looked_at_and_reconstructed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, out, result = tmp_path / "scan.h5", tmp_path / "tuning", tmp_path / "result.json"
    data = experiment(dose=3e3, positions=raster(2.0, 16.0), shape=(32, 32), angular_pixel=4.0, defocus=100.0)
    side = round(np.sqrt(len(data.patterns)))
    with h5py.File(scan, "w") as file:
        file["data"] = data.patterns.reshape(side, side, 32, 32)
        file.attrs.update({"voltage": VOLTAGE, "semiangle_mrad": SEMIANGLE, "scan_step_A": 2.0})
    known = ("--defocus", "100", "--angular-pixel", "4", "--no-calibrate", "--passes", "7")
    named = ("--search", "loss,background,regularise", "--reconstructions", "16", "--cores", "0")
    code = call("tune", str(scan), *known, *named, "--out", str(out), "--json", str(result))
    assert not code, capsys.readouterr().err
    told = json.loads(result.read_text(encoding="utf-8"))
    assert told["reconstructions"] <= 16
    assert set(told["values"]) == {"loss", "background", "regularise"}
    printed = capsys.readouterr().out
    assert str(out / "tuned.yaml") in printed.replace("\n", "")
    assert not call("report", str(out))
    assert "Trials that came farthest" in capsys.readouterr().out
    with_settings = (*known[:-2], "--settings", told["settings"], "--out", str(tmp_path / "picture"))
    assert call("reconstruct", str(scan), *with_settings) in (0, None, 5)
    assert (tmp_path / "picture" / "scan-phase.png").stat().st_size > 1000


def test_what_cannot_be_searched_is_told_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("tune", str(tmp_path / "absent.h5")) == 2
    assert "absent.h5" in capsys.readouterr().err
