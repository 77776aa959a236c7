"""From the command line to an instrument: keys, IPv6, and how long to wait."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.campaign.run import run_campaign
from agent.cli.app import app
from agent.cli.errors import run_guarded
from agent.cli.simulator import instrument_process
from agent.storage.journal import load_link
from instrument import generate_keys

PTYCHOPILOT = (sys.executable, "-c", "from agent.cli import main; main()")
SERVE = (sys.executable, "-m", "instrument", "serve", "small_world:make")


@pytest.fixture(autouse=True)
def _here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agent.cli.campaigns.run_campaign", partial(run_campaign, processing="small_world:process"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with `server`, `agent` (admitted) and `stranger` (not admitted), each as one side keeps its keys."""
    server = tmp_path / "keys" / "server"
    generate_keys(server, "scope")
    (server / "clients").mkdir()
    for name in ("agent", "stranger"):
        generate_keys(tmp_path / "keys" / name, name)
        shutil.copy(server / "scope.key", tmp_path / "keys" / name)
    shutil.copy(tmp_path / "keys" / "agent" / "agent.key", server / "clients")
    return tmp_path / "keys"


@contextmanager
def _served(tmp_path: Path, *options: str) -> Iterator[str]:
    command = [*SERVE, "--state-dir", str(tmp_path / "state"), *(options or ("--control", "tcp://127.0.0.1:*"))]
    with instrument_process(command, tmp_path / "server.log") as endpoint:
        yield endpoint


@pytest.fixture
def locked(tmp_path: Path, keys: Path) -> Iterator[str]:
    """An instrument that demands keys."""
    with _served(tmp_path, "--control", "tcp://127.0.0.1:*", "--keys", str(keys / "server")) as endpoint:
        yield endpoint


def _campaign(tmp_path: Path, **more: Any) -> Path:
    values: dict[str, Any] = {
        "name": "small",
        "electrons": 2e6,
        "area": {"height": 24, "width": 24},
        "exploration": {"trials": 2, "height": 16, "width": 16, "initial": 2},
        "search": {"step": [0.8, 2.0], "defocus": [50, 150], "dose": [50, 1000]},
        "policy": "sobol",
        "score": {"field": 12},
        **more,
    }
    path = tmp_path / "campaign.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def _call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = run_guarded(app, [str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.strip()


# Keys


def test_doctor_reaches_an_instrument_with_keys(locked: str, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _call(capsys, "doctor", "-i", locked, "--keys", keys / "agent")
    assert code == 0
    assert "small microscope, 80 kV; idle, beam blanked" in out


@pytest.mark.parametrize(
    ("who", "says"),
    [
        (None, "demands CURVE keys and none were given; give the folder that holds them with --keys FOLDER"),
        (
            "stranger",
            "does not admit this key; copy the public key (NAME.key) to the server's folder of admitted clients",
        ),
    ],
)
def test_a_key_that_is_missing_or_not_admitted_is_named_at_once(
    locked: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], who: str | None, says: str
) -> None:
    given = () if who is None else ("--keys", keys / who)
    started = time.monotonic()
    code, _, err = _call(capsys, "run", _campaign(tmp_path), "-i", locked, "--dry-run", *given)
    assert (code, says in err) == (3, True), err
    assert time.monotonic() - started < 40, "it does not wait a minute for what cannot come"
    code, out, _ = _call(capsys, "doctor", "-i", locked, *given)
    assert (code, says in out) == (3, True), out


def test_the_wrong_public_key_of_the_server_is_named(
    locked: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_keys(tmp_path / "other", "scope")
    shutil.copy(tmp_path / "other" / "scope.key", keys / "agent" / "scope.key")
    code, out, err = _call(
        capsys, "run", _campaign(tmp_path), "-i", locked, "--dry-run", "--keys", keys / "agent", "--wait", "4"
    )
    assert code == 3
    for said in (out, err):
        assert (
            "breaks every connection off in the handshake; is the server's public key among the keys the right one"
            in said
        )


def test_keys_for_an_instrument_that_uses_none(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _served(tmp_path) as endpoint:
        code, out, _ = _call(capsys, "doctor", "-i", endpoint, "--keys", keys / "agent")
    assert code == 3
    assert "uses no CURVE keys; leave yours out" in out


def test_a_port_where_something_else_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as web:
        assert web.stdout is not None
        port = re.search(r"port (\d+)", web.stdout.readline())
        assert port is not None
        code, out, _ = _call(capsys, "doctor", "-i", f"tcp://127.0.0.1:{port[1]}", "--wait", "4")
        web.terminate()
    assert code == 3
    assert "is it an instrument server?" in out


def test_the_keys_of_the_campaign_file_are_remembered_for_resume(
    locked: str, keys: Path, tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        (world / f"raise-{number}").touch()
    campaign = _campaign(
        tmp_path, keys="keys/agent", exploration={"trials": 4, "height": 16, "width": 16, "initial": 4}
    )
    code, _, err = _call(capsys, "run", campaign, "-i", locked, "--out", "campaign")
    assert (code, "3 trials in a row have failed" in err) == (5, True), err
    assert load_link(tmp_path / "campaign").keys == keys / "agent"
    code, _, err = _call(capsys, "resume", "campaign")
    assert code == 0, err


def test_keys_on_the_command_line_come_before_those_of_the_file(
    locked: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = _campaign(tmp_path, keys="keys/stranger")
    assert _call(capsys, "run", campaign, "-i", locked, "--dry-run")[0] == 3
    assert _call(capsys, "run", campaign, "-i", locked, "--dry-run", "--keys", "keys/agent")[0] == 0


def test_a_folder_without_keys_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = _call(capsys, "run", _campaign(tmp_path), "-i", "tcp://127.0.0.1:9", "--keys", "empty")
    assert code == 2
    assert "empty: no secret key there" in err


# IPv6


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_a_campaign_over_ipv6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _served(tmp_path, "--control", "tcp://[::1]:*") as endpoint:
        assert endpoint.startswith("tcp://[::1]:")
        code, _, err = _call(capsys, "run", _campaign(tmp_path), "-i", endpoint, "--out", "campaign")
        assert code == 0, err


# Waiting


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("extra", [("--dry-run",), ("--out", "campaign")])
def test_a_run_says_what_it_waits_for_and_ctrl_c_ends_it_in_order(tmp_path: Path, extra: tuple[str, ...]) -> None:
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    arguments = ["run", str(_campaign(tmp_path)), "-i", endpoint, *extra]
    with subprocess.Popen(
        [*PTYCHOPILOT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert said.startswith(f"no instrument answers at {endpoint} yet; waiting for up to 60 s (--wait SECONDS")
    assert (process.returncode, err) == (4, "ptychopilot: stopped by Ctrl-C\n")
    assert not (tmp_path / "campaign").exists()


def test_it_waits_as_long_as_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    started = time.monotonic()
    code, _, err = _call(capsys, "run", _campaign(tmp_path), "-i", endpoint, "--dry-run", "--wait", "1")
    assert code == 3
    assert f"no instrument answers at {endpoint} (tried for 1 s)" in err
    assert time.monotonic() - started < 40  # and not for a minute


# A campaign without a result


@pytest.mark.parametrize(
    ("faults", "trials", "says"),
    [
        (("raise-1", "raise-2", "raise-3"), 4, "3 trials in a row have failed"),
        (("raise-1", "raise-2"), 2, "of 2 trials 2 failed and 0 have a score that is not to be trusted"),
        (
            ("veto-1", "veto-2", "veto-3", "veto-4"),
            4,
            "of 4 trials 0 failed and 4 have a score that is not to be trusted",
        ),
        (("raise-1", "veto-2"), 2, "of 2 trials 1 failed and 1 have a score that is not to be trusted"),
    ],
)
def test_a_campaign_whose_trials_all_fail_has_a_report_and_an_exit_code_of_its_own(
    tmp_path: Path,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    faults: tuple[str, ...],
    trials: int,
    says: str,
) -> None:
    for fault in faults:
        (world / fault).touch()
    campaign = _campaign(tmp_path, exploration={"trials": trials, "height": 16, "width": 16, "initial": trials})
    with _served(tmp_path) as endpoint:
        code, out, err = _call(capsys, "run", campaign, "-i", endpoint, "--out", "campaign", "--json", "result.json")
    assert code == 5, err
    assert says in err
    assert len(err.splitlines()) == 1
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["state"], result["recommended"], result["score"]) == ("failed", None, None)
    page = (tmp_path / "campaign" / "report.html").read_text(encoding="utf-8")
    assert "This campaign has failed" in page
    for fault in faults:
        kind, number = fault.split("-")
        told = result["trials"][int(number) - 1]
        why = told["reason"] if kind == "raise" else told["veto"]
        assert why
        assert why in page
        assert why in out
    assert "best so far" not in out


def test_a_score_that_is_not_to_be_trusted_is_marked_wherever_it_is_shown(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault in ("veto-1", "veto-4"):
        (world / fault).touch()
    campaign = _campaign(
        tmp_path, exploration={"trials": 3, "height": 16, "width": 16, "initial": 3}, expert=[1.0, 100.0]
    )
    with _served(tmp_path) as endpoint:
        code, out, err = _call(capsys, "run", campaign, "-i", endpoint, "--out", "campaign")
    assert code == 0, err
    assert "best so far" in out
    assert "(trial 1)" not in out
    assert "! the score of trial 1 is not to be trusted: the model explains noise" in out
    assert len(re.findall(r"\d ! ", out)) == 3, "two rows of the table, and the final picture beside the expert's"
    page = (tmp_path / "campaign" / "report.html").read_text(encoding="utf-8")
    assert page.count("not to be trusted: the model explains noise") >= 2
    assert "The two pictures cannot be compared by their scores" in page
    result = json.loads((tmp_path / "campaign" / "result.json").read_text(encoding="utf-8"))
    veto = "the model explains noise"
    assert [trial["veto"] for trial in result["trials"]] == [veto, None, None, veto, None]
    assert result["veto"] == veto
