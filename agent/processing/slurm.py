"""Workers as jobs of SLURM, by dask-jobqueue.

Queue, account, wall time, memory and the rest are a facility's affair, and stand in Dask's own configuration
(`jobqueue.slurm` in `~/.config/dask/*.yaml`); what is not said there has the values of `UNSAID`. Dask's protocol carries pickles,
so it is spoken by TLS only, with certificates that are made for one cluster and that only its owner can read.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from agent.errors import BadInputError

UNSAID = {"cores": 1, "processes": 1, "memory": "4GB", "walltime": "04:00:00"}
"""Of a job, where Dask's configuration does not say it."""
ONE_THREAD = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FOLDER = "slurm"


def cluster_of(jobs: int, folder: Path) -> Any:
    """A Dask cluster whose workers are jobs that have been sent to the queue; `close` takes them back. For the main thread.

    Args:
        jobs: how many there are to be; one that ends before the cluster does is replaced.
        folder: that all nodes see; `slurm` in it gets the jobs' output and, while they run, the certificates.

    Raises:
        BadInputError: dask-jobqueue is not installed, or SLURM does not take the jobs.
    """
    # dask-jobqueue makes of Ctrl-C a silent end; ours keeps what was found.
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
        from distributed.security import Security
    except ImportError as error:
        msg = "--slurm needs dask-jobqueue; install it by `pip install ptychopilot[cluster]`"
        raise BadInputError(msg) from error
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)
    if shutil.which("sbatch") is None:
        msg = (
            "--slurm: there is no `sbatch` here; call it where jobs are submitted (a login node), or leave --slurm out"
        )
        raise BadInputError(msg)
    place = (folder / FOLDER).resolve()
    place.mkdir(mode=0o700, exist_ok=True)
    cluster: Any = None
    try:
        cluster = SLURMCluster(
            **{name: value for name, value in UNSAID.items() if _said(name) is None},
            protocol="tls://",
            security=Security.temporary(),
            shared_temp_directory=str(place),
            log_directory=str(place),
            job_script_prologue=[*(_said("job-script-prologue") or ()), *(f"export {name}=1" for name in ONE_THREAD)],
            scheduler_options={"dashboard_address": ":0"},
            silence_logs=logging.ERROR,
        )
        _check_taken(cluster.job_script(), place, jobs)
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        return cluster
    except BadInputError:
        cluster.close()
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        msg = f"--slurm {jobs}: {' '.join(str(error).split())}; what a job is stands in `jobqueue.slurm` of Dask's configuration"
        raise BadInputError(msg) from error


def _check_taken(script: str, place: Path, jobs: int) -> None:
    """Raises BadInputError where SLURM would not take the job: Dask only logs that, and would wait for ever."""
    file = place / "job.sh"
    file.write_text(script, encoding="utf-8")
    asked = subprocess.run(["sbatch", "--test-only", str(file)], capture_output=True, text=True)
    if asked.returncode != 0:
        said = " ".join(asked.stderr.split()).removeprefix("sbatch: error: ").removeprefix("allocation failure: ")
        msg = (
            f"--slurm {jobs}: SLURM does not take {file} ({said}); queue, account, memory and wall time are set in "
            "`jobqueue.slurm` of Dask's configuration"
        )
        raise BadInputError(msg)


def _said(name: str) -> Any:
    """What Dask's configuration says of SLURM jobs."""
    import dask

    return dask.config.get(f"jobqueue.slurm.{name}", None)
