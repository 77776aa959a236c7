"""`ptychopilot reconstruct` on a part of the experimental recording: calibrated, reconstructed, scored, written."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "rotavirus_cryo_4dstem.h5"


@pytest.mark.recording
def test_a_recording_becomes_object_picture_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not RECORDING.exists():
        pytest.skip(f"the experimental recording is not at {RECORDING}")
    from agent.cli import main

    part = tmp_path / "part.h5"
    with h5py.File(RECORDING) as source, h5py.File(part, "w") as target:
        target["data"] = source["data"][16:48, 0:32]
        for where, attributes in ((target, source.attrs), (target["data"], source["data"].attrs)):
            for name, value in attributes.items():
                where.attrs[name] = value
    result = tmp_path / "result.json"
    with pytest.raises(SystemExit) as end:
        main(["reconstruct", str(part), "--out", str(tmp_path / "out"), "--passes", "3", "--json", str(result)])
    assert not end.value.code
    printed = capsys.readouterr().out
    told = json.loads(result.read_text(encoding="utf-8"))
    assert told["defocus_measured"] == pytest.approx(135e3, rel=0.05)
    assert told["score"]["value"] > 5 * told["score"]["sd"]
    for key in ("object", "picture"):
        assert Path(told[key]).parent == tmp_path / "out"
        assert Path(told[key]).stat().st_size > 1000
        assert told[key] in printed
