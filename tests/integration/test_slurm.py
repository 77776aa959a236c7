"""`ptychopilot tune --slurm` on a SLURM of one node, where Debian's packages of it are and the tests run as root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from phantom import SEMIANGLE, VOLTAGE, experiment, raster

from agent.tuning.journal import JOURNAL

DAEMONS = ("munged", "slurmctld", "slurmd")
HERE = Path(__file__).parents[2]

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed (extra `cluster`)")
pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name, path="/usr/sbin:/usr/bin") is None for name in DAEMONS),
        reason="SLURM on one node needs root, and apt-get install munge slurmd slurmctld slurm-client",
    ),
    pytest.mark.timeout(300),
]

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def until(true: Callable[[], bool], what: str, limit: float = 60) -> None:
    """Look again until something is so."""
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline, f"waited {limit} s for {what}"
        time.sleep(0.2)


def jobs(environment: dict[str, str]) -> list[str]:
    """Numbers of the jobs in the queue that run."""
    asked = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], env=environment, capture_output=True, text=True)
    return asked.stdout.split()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` finds a SLURM of this machine."""
    place = tmp_path / "slurm"
    place.mkdir(mode=0o755)
    (place / "key").write_bytes(os.urandom(1024))
    (place / "key").chmod(0o400)
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    host = socket.gethostname().split(".")[0]
    configuration = place / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, ports=ports, place=place), encoding="utf-8")
    files = {
        "socket": "munge.socket",
        "key-file": "key",
        "log-file": "munged.log",
        "pid-file": "munged.pid",
        "seed-file": "seed",
    }
    threads = {name: "1" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {**os.environ, **threads, "SLURM_CONF": str(configuration), "PYTHONPATH": str(HERE)}
    environment["DASK_JOBQUEUE__SLURM__MEMORY"] = "500MB"
    environment["PATH"] += ":/usr/sbin"
    # munged wants its socket where no other user could put one, and a test's folder is not such a place.
    munged = ["munged", "--foreground", "--force", *(f"--{name}={place / file}" for name, file in files.items())]
    running = [subprocess.Popen(munged, env=environment)]
    until((place / "munge.socket").exists, "munged")
    running += [subprocess.Popen([daemon, "-D"], env=environment) for daemon in DAEMONS[1:]]
    try:
        state = ["sinfo", "-h", "-o", "%t"]
        until(lambda: subprocess.run(state, env=environment, capture_output=True).stdout.strip() == b"idle", "SLURM")
        yield environment
    finally:
        subprocess.run(["scancel", "-u", "root"], env=environment)
        for each in reversed(running):
            each.terminate()
            each.wait(20)


@pytest.fixture
def scan(tmp_path: Path) -> list[str]:
    """`tune` of a small recording, but for who does it."""
    path = tmp_path / "scan.h5"
    data = experiment(dose=3e3, positions=raster(2.0, 16.0), shape=(32, 32), angular_pixel=4.0, defocus=100.0)
    side = round(np.sqrt(len(data.patterns)))
    with h5py.File(path, "w") as file:
        file["data"] = data.patterns.reshape(side, side, 32, 32)
        file.attrs.update({"voltage": VOLTAGE, "semiangle_mrad": SEMIANGLE, "scan_step_A": 2.0})
    known = ("--defocus", "100", "--angular-pixel", "4", "--no-calibrate", "--passes", "7")
    return [
        sys.executable,
        "-c",
        "from agent.cli import main; main()",
        "tune",
        str(path),
        *known,
        "--search",
        "loss,background,regularise",
    ]


def test_jobs_of_slurm_search_as_this_process_does_although_one_is_lost(
    slurm: dict[str, str], scan: list[str], tmp_path: Path
) -> None:
    command = [*scan, "--reconstructions", "16"]
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run([*command, "--out", str(here), "--json", f"{here}.json", "--cores", "0"], env=slurm, check=True)
    with subprocess.Popen(
        [*command, "--out", str(there), "--json", f"{there}.json", "--slurm", "2"], env=slurm
    ) as tuning:
        until(lambda: trials(there) >= 3, "three trials")
        lost = jobs(slurm)[0]
        subprocess.run(["scancel", "--signal=KILL", "--full", lost], env=slurm, check=True)
        assert tuning.wait(120) == 0
    one, other = (json.loads(Path(f"{place}.json").read_text(encoding="utf-8")) for place in (here, there))
    assert other["values"] == one["values"]
    until(lambda: not jobs(slurm), "the jobs to end with the search")
    assert not list((there / "slurm").glob("*.pem")), "certificates of a search that has ended"


def test_a_job_that_slurm_does_not_take_is_told_before_anything_is_searched(
    slurm: dict[str, str], scan: list[str], tmp_path: Path
) -> None:
    environment = {**slurm, "DASK_JOBQUEUE__SLURM__MEMORY": "500GB"}
    command = [*scan, "--out", str(tmp_path / "out"), "--slurm", "2"]
    for _ in range(2):  # what was refused leaves nothing behind that refuses the next
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2
        assert "SLURM does not take" in ended.stderr
        assert "configuration is not available" in ended.stderr


def test_ctrl_c_ends_the_jobs_and_keeps_what_was_found(slurm: dict[str, str], scan: list[str], tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [*scan[:-2], "--reconstructions", "400"]  # all settings: it would go on for minutes
    command += ["--out", str(out), "--slurm", "2"]
    with subprocess.Popen(command, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tuning:
        until(lambda: trials(out) >= 1, "a trial")
        tuning.send_signal(signal.SIGINT)
        told, _ = tuning.communicate(timeout=60)
    assert "--resume" in told, tuning.returncode
    until(lambda: not jobs(slurm), "the jobs to end with the search")
    assert (out / "tuned.yaml").exists()


def test_campaigns_of_a_queue_are_reconstructed_by_jobs_of_slurm(slurm: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "behaviour.py").write_text(BEHAVIOUR)
    environment = {**slurm, "PYTHONPATH": f"{tmp_path}:{HERE}"}
    asked = subprocess.run(
        [sys.executable, "-c", ONE_JOB, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.split() == ["7.0", "another", "process"]
    until(lambda: not jobs(slurm), "the job to end with the cluster")


BEHAVIOUR = """
import os
from agent.processing.process import ProcessingResult
from agent.records import Score

def process(job, on_progress):
    score = Score(value=job.seed, sd=0.1)
    return ProcessingResult(score=score, defocus_measured=1.0, deviance=1.0, passes=1, device=str(os.getpid()), seconds={})
"""
ONE_JOB = """
import asyncio, os, sys
from contextlib import closing
from pathlib import Path
from agent.cli.serving import _slurm, _workers
from agent.config import ScoreChoice
from agent.processing.process import ProcessingJob
from agent.reconstruction_choice import ReconstructionChoice
from instrument.models import Rectangle

folder = Path(sys.argv[1])
pool = (1, [], None, 1)
job = ProcessingJob(
    acquisition=folder / "a.h5", output=folder / "out.h5", column_output=folder / "column.json",
    scored=Rectangle(y=0, x=0, height=1, width=1), reconstruction=ReconstructionChoice(), score=ScoreChoice(), seed=7,
)

async def reconstructed(cluster):
    workers = await _workers(pool, cluster)
    result = await workers.run("behaviour:process", job)
    await workers.close()
    print(result.score.value, "another process" if result.device != str(os.getpid()) else "this one")

with _slurm(pool, folder) as cluster:
    asyncio.run(reconstructed(cluster))
"""


def trials(folder: Path) -> int:
    """How many trials of a search have a stage."""
    try:
        with sqlite3.connect(f"file:{folder / JOURNAL}?mode=ro", uri=True) as journal:
            return int(journal.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
