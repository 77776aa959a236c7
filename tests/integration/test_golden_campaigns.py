"""Campaigns that an earlier version ran, finished or left behind, still load, and can be continued."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from served_small_world import serving

from agent import load_campaign, read_acquisition, read_reconstruction, resume_campaign
from agent.events import Audience, TrialChanged
from agent.report import write_report
from agent.storage.journal import load_history, load_link

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of faults, here without any; and the small world importable in every process."""
    monkeypatch.setenv("SMALL_WORLD", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(HERE))
    return tmp_path


def golden(name: str, tmp_path: Path) -> Path:
    """A copy: opening a journal leaves files beside it."""
    folder = tmp_path / name
    shutil.copytree(HERE / "golden_campaigns" / name, folder)
    return folder


def test_a_campaign_finished_by_an_earlier_version_lists_its_trials_and_scores(tmp_path: Path) -> None:
    folder = golden("finished", tmp_path)
    record = load_campaign(folder)
    assert (record.state, record.config.name, record.config.metadata.sample) == ("done", "golden-campaign", "stripes")
    assert [(t.number, t.role, t.state) for t in record.trials] == [
        (1, "exploration", "done"),
        (2, "exploration", "failed"),
        (3, "exploration", "done"),
        (4, "exploration", "done"),
        (5, "final", "done"),
        (6, "expert", "done"),
    ]
    assert record.trials[1].reason == "reconstruction: ValueError: the data make no sense"
    scores = [round(t.score.value, 4) for t in record.trials if t.score is not None]
    assert scores == [1.0158, 1.2816, 0.6125, 1.7856, 1.2369]
    assert record.electrons_spent == pytest.approx(sum(t.electrons for t in record.trials if t.role != "expert"))
    assert record.recommended is not None
    assert record.model_view is not None
    assert load_link(folder).endpoint.startswith("tcp://127.0.0.1:")
    assert len(load_history(folder)) == 63


def test_files_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    folder = golden("finished", tmp_path)
    final = load_campaign(folder).trial("final")
    assert final is not None
    acquisition = read_acquisition(folder / str(final.acquisition_file))
    assert acquisition.plan == final.plan
    assert acquisition.received.all()
    stored = read_reconstruction(folder / str(final.reconstruction_file))
    assert stored.score == final.score
    assert stored.reconstruction.phase.shape == acquisition.plan.shape


def test_a_report_is_written_from_the_folder_of_an_earlier_version(tmp_path: Path) -> None:
    folder = golden("finished", tmp_path)
    text = write_report(load_campaign(folder), folder).read_text(encoding="utf-8")
    assert "golden-campaign" in text
    assert "the data make no sense" in text
    assert text.count("data:image/") >= 2, "the final picture and the expert's"


async def test_a_finished_campaign_of_an_earlier_version_is_left_as_it_is(tmp_path: Path) -> None:
    folder = golden("finished", tmp_path)
    before = load_campaign(folder)
    assert await resume_campaign(folder) == before


async def test_a_campaign_killed_under_an_earlier_version_is_finished_by_this_one(tmp_path: Path, world: Path) -> None:
    folder = golden("killed", tmp_path)
    before = load_campaign(folder)
    assert [t.state for t in before.trials] == ["done", "acquired"]
    with serving(tmp_path) as server:
        record = await resume_campaign(folder, endpoint=server.endpoint)
    assert record.state == "done"
    assert [t.role for t in record.trials] == ["exploration"] * 3 + ["final"]
    assert record.trials[0] == before.trials[0]
    assert record.trials[1].electrons == before.trials[1].electrons > 0
    assert len((world / "exposures.jsonl").read_text().splitlines()) == 2, "what is on disk is not exposed again"


def examples(readme: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_example_of_the_storage_room_reads_a_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden("finished", tmp_path).rename(tmp_path / "my-campaign")
    monkeypatch.chdir(tmp_path)
    (example,) = examples("agent/storage/README.md")
    exec(compile(example, "agent/storage/README.md", "exec"), {})  # noqa: S102 – the README is ours
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "2 exploration failed reconstruction: ValueError: the data make no sense"
    assert lines[4].startswith("5 final done 1.7855")


def test_the_example_of_the_campaign_room_watches_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = examples("agent/campaign/README.md")
    namespace: dict[str, Any] = {}
    exec(compile(example, "agent/campaign/README.md", "exec"), namespace)  # noqa: S102 – the README is ours
    audience = Audience([namespace["Alarm"]()])
    for trial in load_campaign(golden("finished", tmp_path)).trials:
        audience.tell(TrialChanged(trial=trial))
    assert capsys.readouterr().out == "trial 2 has failed: reconstruction: ValueError: the data make no sense\n"
