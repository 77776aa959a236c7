"""Every verb for every user: ASCII terminals, odd folders and names, a home that cannot be written, a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from recorded_files import scan_of_atoms

PTYCHOPILOT = (sys.executable, "-c", "from agent.cli import main; main()")
NOBODY = 65534
GEOMETRY = ("--voltage", "80", "--semiangle", "20", "--angular-pixel", "2", "--step", "1.5", "--defocus", "200")

QUICKLY = ("--passes", "1", "--no-calibrate")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes, and /proc cannot be written, on Linux"),
    pytest.mark.usefixtures("world"),
]


SMALL = {
    "name": "small",
    "electrons": 2e6,
    "metadata": {"sample": "MoS₂ für Å"},
    "area": {"height": 24, "width": 24},
    "exploration": {"trials": 1, "height": 16, "width": 16, "initial": 1},
    "search": {"step": [0.8, 2.0], "defocus": [50, 150], "dose": [900, 1000]},
    "policy": "random",
    "score": {"field": 12, "k_max": 1.0, "ring_width": 0.1},
    "reconstruction": {"passes": 1, "final_passes": 0},
}
"""A campaign of two acquisitions."""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "scan.npy"
    np.save(path, scan_of_atoms())
    return path


def _other_user() -> int | None:
    """Another user than root who may run this interpreter, where we can become one."""
    if os.geteuid() != 0:
        return None
    tried = subprocess.run([sys.executable, "-c", ""], user=NOBODY, capture_output=True, check=False, cwd="/")
    return NOBODY if tried.returncode == 0 else None


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Somebody with an ASCII terminal, a home that cannot be written, and a folder with spaces and umlauts."""
    with tempfile.TemporaryDirectory(prefix="mein Ordner ü") as folder:
        os.chmod(folder, 0o777)
        yield Stranger(Path(folder))


class Stranger:
    """Calls the command as a user other than root where that is possible here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.user = _other_user()
        except PermissionError:
            self.user = None
        plain = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/proc/nobody"}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LC_", "MPLCONFIG"))},
            **plain,
        }

    def start(self, *command: str | bytes | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [part if isinstance(part, bytes) else os.fsencode(part) for part in command],
            cwd=self.folder,
            env=self.environment,
            user=self.user,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, *arguments: str | bytes | Path) -> str:
        """Standard output of a call that must go well and complain of nothing."""
        with self.start(*PTYCHOPILOT, *arguments) as process:
            out, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, b""), err.decode(errors="replace")
        return out.decode(self.environment.get("PYTHONIOENCODING", "ascii"))

    @contextmanager
    def serving(self, *command: str | bytes | Path) -> Iterator[str]:
        with self.start(*command) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())["control"]
            finally:
                process.terminate()
                process.communicate(timeout=30)


@pytest.mark.slow
def test_a_whole_campaign_in_an_odd_folder_on_an_ascii_terminal(stranger: Stranger) -> None:
    (stranger.folder / "world").mkdir(mode=0o777)
    (stranger.folder / "world").chmod(0o777)
    stranger.environment["SMALL_WORLD"] = str(stranger.folder / "world")
    assert "campaign file: " in stranger.call("init", "Probe ü.yaml")
    told = {"passes": 1, "calibrate": False, "final_passes": 0}
    written = yaml.safe_dump({**SMALL, "reconstruction": told}, allow_unicode=True)
    (stranger.folder / "Probe ü.yaml").write_text(written, encoding="utf-16")
    serve = (sys.executable, "-m", "instrument", "serve", "small_world:make", "--state-dir", "Zustand ü")
    with stranger.serving(*serve) as endpoint:
        assert "small microscope, 80 kV" in stranger.call("doctor", "-i", endpoint)
        assert "e/A^2" in stranger.call("run", "Probe ü.yaml", "-i", endpoint, "--dry-run")
        out = stranger.call("run", "Probe ü.yaml", "-i", endpoint, "--out", b"Kampagne \xe4", "--json", b"\xe4.json")
        assert "+/-" in out
        assert "bit/A^2" in out
        assert "Kampagne \\xe4" in out
        assert "+/-" in stranger.call("resume", b"Kampagne \xe4")
    assert "report.html" in stranger.call("report", b"Kampagne \xe4", "--out", b"Bericht \xe4")
    result = json.loads((stranger.folder / os.fsdecode(b"\xe4.json")).read_text(encoding="utf-8"))
    assert Path(result["folder"]).name == os.fsdecode(b"Kampagne \xe4")


SMALL_DEMO = """
import logging, sys
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # as `main` does before it imports anything
from agent.cli import campaigns, main
from agent.config import load_config
campaigns.load_config = lambda example: load_config(example) and load_config("small.yaml")
campaigns.simulator_command = lambda state, *options: [
    sys.executable, "-m", "instrument", "serve", "small_world:make", "--state-dir", str(state)
]
main()
"""
"""The demo with another microscope than the simulated one, and with fewer and smaller trials: seconds instead of minutes."""


@pytest.mark.slow
def test_the_demo_on_an_ascii_terminal(stranger: Stranger) -> None:
    (stranger.folder / "world").mkdir()
    (stranger.folder / "world").chmod(0o777)
    stranger.environment["SMALL_WORLD"] = str(stranger.folder / "world")
    example = {**SMALL, "expert": [1.0, 500]}
    (stranger.folder / "small.yaml").write_text(yaml.safe_dump(example), encoding="utf-8")
    with stranger.start(sys.executable, "-c", SMALL_DEMO, "demo", "--no-browser", "--out", "Vorführung") as process:
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, b""), err.decode(errors="replace")
    assert b"bit/A^2" in out
    assert b"the expert's defocus is 200 A: this column does not reach 500 A" in out
    assert (stranger.folder / "Vorführung" / "report.html").exists()


@pytest.mark.slow
def test_recordings_whose_names_are_no_text(stranger: Stranger, recording: Path) -> None:
    name = b"m\xe4rz " + "blöd Å.npy".encode()
    (stranger.folder / os.fsdecode(name)).write_bytes(recording.read_bytes())
    called = ("reconstruct", name, *GEOMETRY, "--passes", "1", "--out", b"aus\xe4", "--json", name + b".json")
    assert "+/-" in stranger.call(*called)
    result = json.loads((stranger.folder / os.fsdecode(name + b".json")).read_text(encoding="utf-8"))
    assert Path(result["picture"]).exists()


def test_simulator_and_recordings_are_served_on_an_ascii_terminal(stranger: Stranger, recording: Path) -> None:
    import h5py

    with h5py.File(stranger.folder / os.fsdecode(b"m\xe4rz.h5"), "w") as file:
        file["data"] = np.load(recording)
        file.attrs.update({"voltage": 80e3, "semiangle": 20.0, "angular_pixel": 2.0, "step": 1.5, "defocus": 200.0})
    assert "--size A" in stranger.call("simulate", "--help")
    assert "--step A" in stranger.call("replay", "--help")
    serve = (*PTYCHOPILOT, "replay", b"m\xe4rz.h5", "--control", "tcp://127.0.0.1:*", "--state", b"Zustand \xe4")
    with stranger.serving(*serve) as endpoint:
        assert "replay of m\\xe4rz.h5, 80 kV" in stranger.call("doctor", "-i", endpoint)


VERBS = ("init", "plan", "run", "resume", "ctl", "reconstruct", "report", "dashboard", "demo", "study", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_on_an_ascii_terminal(stranger: Stranger, verb: str) -> None:
    assert "Usage: ptychopilot" in stranger.call(verb, "--help")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_doctor_on_terminals_of_old(stranger: Stranger, encoding: str) -> None:
    stranger.environment["PYTHONIOENCODING"] = encoding
    assert "numpy" in stranger.call("doctor")


def test_ctrl_c_during_a_reconstruction_is_one_line_and_exit_code_4(recording: Path, tmp_path: Path) -> None:
    arguments = ("reconstruct", str(recording), *GEOMETRY, "--passes", "1000", "--out", str(tmp_path / "out"))
    with subprocess.Popen(
        [*PTYCHOPILOT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        give_up = time.monotonic() + 60
        while not (tmp_path / "out").exists():  # made before anything is computed
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (4, "ptychopilot: stopped by Ctrl-C\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_reconstruction_at_the_limit_of_file_sizes_is_one_sentence(recording: Path, tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); " + PTYCHOPILOT[-1]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            limited,
            "reconstruct",
            recording,
            *GEOMETRY,
            *QUICKLY,
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 4, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "the limit of file sizes (`ulimit -f`) is reached" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
