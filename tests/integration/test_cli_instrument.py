"""The command line against instruments in processes of their own: what it refuses, how it stops, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from served_small_world import CAMPAIGN

from agent.cli.app import app
from agent.cli.errors import run_guarded
from agent.cli.simulator import instrument_process, simulator_command
from agent.errors import InstrumentUnavailableError
from agent.storage.journal import load_campaign
from agent.storage.reconstruction_file import read_reconstruction
from instrument import InstrumentClient

PTYCHOPILOT = (sys.executable, "-c", "from agent.cli import main; main()")


@pytest.fixture(autouse=True)
def _here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def _serve(tmp_path: Path) -> list[str]:
    small_world = [sys.executable, "-m", "instrument", "serve", "small_world:make"]
    return [*small_world, "--control", "tcp://127.0.0.1:*", "--state-dir", str(tmp_path / "state")]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with instrument_process(_serve(tmp_path), tmp_path / "server.log") as control:
        yield control


def _campaign(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(yaml.safe_dump({**CAMPAIGN, **changes}), encoding="utf-8")
    return path


def _call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = run_guarded(app, [str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _one_line(error: str) -> str:
    assert len(error.strip().splitlines()) == 1, error
    return error.strip()


def _spent(endpoint: str) -> float:
    async def ask() -> float:
        async with InstrumentClient(endpoint, timeout=5) as client:
            return (await client.status()).electrons_spent

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"electrons": 50.0}, "electrons"),
        ({"search": {"defocus": [5000, 6000]}}, "defocus"),
        ({"search": {"step": [7, 9]}}, "step"),
        ({"area": {"height": 2400, "width": 24}}, "area"),
        ({"policy": "no_such_module:Policy"}, "no_such_module:Policy"),
    ],
    ids=[
        "budget too small",
        "defocus beyond the lens",
        "step beyond the scan",
        "area beyond the stage",
        "no such policy",
    ],
)
def test_what_the_instrument_cannot_do_is_refused_beforehand(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    path = _campaign(tmp_path, **changes)
    code, _, err = _call(capsys, "run", path, "-i", endpoint, "--out", "campaign")
    assert code == 2
    assert says in _one_line(err)
    assert not (tmp_path / "campaign").exists()
    assert _spent(endpoint) == 0


def test_a_dry_run_tells_the_cost_and_exposes_nothing(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _call(capsys, "run", _campaign(tmp_path), "-i", endpoint, "--dry-run", "--json", "plan.json")
    assert code == 0
    for said in ("exploratory trials", "2 × 10⁶ electrons", "beam time", "first settings"):
        assert said in out
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert plan["trials"] == 3
    assert plan["electrons"] == 2e6
    assert _spent(endpoint) == 0
    assert not (tmp_path / "campaigns").exists()


def test_a_plan_is_graded_and_exposes_nothing(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _call(capsys, "plan", _campaign(tmp_path), "-i", endpoint, "--json", "plan.json")
    grades = {each["subject"]: each for each in json.loads((tmp_path / "plan.json").read_text())["grades"]}
    assert grades.keys() >= {"budget", "area", "time", "window", "overlap", "frame rate", "damage", "disk"}
    assert all(subject in out for subject in grades)
    assert code == (2 if any(each["verdict"] == "bad" for each in grades.values()) else 0)
    assert _spent(endpoint) == 0


def test_doctor_reaches_an_instrument(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _call(capsys, "doctor", "-i", endpoint)
    assert code == 0
    assert "small microscope, 80 kV; idle, beam blanked" in out


def test_doctor_says_what_it_cannot_reach(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("-i", f"tcp://127.0.0.1:{port}", "--mqtt", f"127.0.0.1:{port}", "--patience", "0.2")
    code, out, _ = _call(capsys, "doctor", *arguments)
    assert code == 3
    assert "no instrument answers" in out
    assert "cannot be reached" in out


def _wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    """Until `condition()` holds; the process must not end before."""
    give_up = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_operator_stops_a_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setenv("SMALL_WORLD_INTERVAL", "0.05")
    with instrument_process(_serve(tmp_path), tmp_path / "server.log") as endpoint:
        arguments = ["run", _campaign(tmp_path), "-i", endpoint, "--out", "campaign", "--json", "result.json"]
        process = subprocess.Popen(
            [*PTYCHOPILOT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        _wait_for((tmp_path / "world" / "exposures.jsonl").exists, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert number.name in _one_line(err)
    assert "`ptychopilot resume campaign` continues" in out
    assert (tmp_path / "campaign" / "report.html").exists()
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["state"] == "stopped"
    assert result["recommended"] is None
    assert len(result["trials"]) == 1
    assert 0 < result["electrons_spent"] < result["electrons_budget"]


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_before_an_exposure(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _small_disk(tmp_path / "disk", "4m"):
        code, _, err = _call(capsys, "run", _campaign(tmp_path), "-i", endpoint, "--out", "disk/campaign")
        assert not list((tmp_path / "disk").rglob("*.part"))
    assert code == 4
    assert "disk" in _one_line(err)
    assert _spent(endpoint) == 0


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PTYCHOPILOT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def test_simulate_and_replay_pass_everything_on(tmp_path: Path) -> None:
    helped = _run("simulate", "--help")
    assert helped.returncode == 0
    assert "--real-time" in helped.stdout
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        np.save(tmp_path / "scan.npy", np.ones((2, 2)))
        refused = _run("simulate", "--control", f"tcp://127.0.0.1:{port}", "--state-dir", tmp_path / "sim")
    assert refused.returncode == 2
    assert str(port) in _one_line(refused.stderr)
    (tmp_path / "scan.h5").write_bytes(b"no recording")
    refused = _run("replay", tmp_path / "scan.h5", "--state-dir", tmp_path / "replay")
    assert refused.returncode == 2
    assert "scan.h5" in _one_line(refused.stderr)


def test_an_instrument_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.simulator.PAUSE", 0.0)
    command = [sys.executable, "-c", "import sys; sys.exit('no beam today')"]
    with ExitStack() as stack, pytest.raises(InstrumentUnavailableError, match="no beam today"):
        stack.enter_context(instrument_process(command, tmp_path / "log.txt"))


def test_the_instrument_ends_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent has died")
    agent = (
        "import sys, time; from pathlib import Path; from agent.cli.simulator import instrument_process\n"
        "command = [sys.executable, '-c', \"import json, os, time; print(json.dumps({'control': str(os.getpid())}), "
        'flush=True); time.sleep(600)"]\n'
        "with instrument_process(command, Path('log.txt')) as pid: print(pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        instrument = int(process.stdout.readline())
        process.kill()
    give_up = time.monotonic() + 30
    while Path(f"/proc/{instrument}").exists() and "Z" not in Path(f"/proc/{instrument}/stat").read_text().split()[2]:
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.slow
def test_a_small_campaign_on_the_simulated_microscope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The main job with everything real: simulator, wire, reconstruction, score, policy, report."""
    path = _campaign(
        tmp_path,
        electrons=2.4e6,
        area={"height": 18, "width": 18},
        exploration={"trials": 1, "height": 16, "width": 16, "initial": 1},
        search={"step": [1.4, 2.5], "defocus": [150, 400], "dose": [2000, 2400]},
        score={"k_max": 1.0, "ring_width": 0.1},
        reconstruction={"passes": 3, "final_passes": 0},
    )
    small = ("--pixels", "64", "--angular-pixel", "2.192")
    with instrument_process(simulator_command(tmp_path / "state", *small), tmp_path / "sim.log") as endpoint:
        code, out, err = _call(capsys, "run", path, "-i", endpoint, "--out", "campaign", "--json", "result.json")
    assert code == 0, err
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "campaign" / "result.json").read_text(encoding="utf-8")) == result
    assert [(t["role"], t["state"]) for t in result["trials"]] == [
        ("exploration", "done"),
        ("final", "done"),
    ]
    assert result["recommended"].keys() >= {"step_size", "defocus", "dose"}
    assert result["score"] > 3 * result["score_sd"] > 0
    assert 0.5 * 2.4e6 < result["electrons_spent"] <= 2.4e6
    assert "campaign folder: " in out
    final = load_campaign(tmp_path / "campaign").trial("final")
    assert final is not None
    stored = read_reconstruction(tmp_path / "campaign" / str(final.reconstruction_file))
    assert np.isfinite(stored.reconstruction.phase).all()
    code, again, err = _call(capsys, "resume", tmp_path / "campaign")
    assert code == 0, err
    assert "Final pictures" in again
