"""`ptychopilot serve` and `ptychopilot queue`: run a facility's campaigns, and say whose turn it is."""

from __future__ import annotations

import asyncio
import getpass
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from agent.cli.results import say, write_json
from agent.cli.terminal import Terminal
from agent.config import Mqtt, load_config
from agent.errors import BadInputError
from agent.facility.jobs import LEASING, OPEN
from agent.facility.queue import CAMPAIGNS, Queue
from agent.facility.serve import Facility, only_one
from agent.facility.status import job_messages, publishing_queue
from agent.processing.pool import LocalWorkers, Workers, lending
from agent.status.broker import parse_broker

Pool = tuple[int, Sequence[str], str | None, int | None]
"""Workers, GPUs, address of a Dask cluster, jobs of SLURM."""


def serve_queue(
    folder: Path,
    instruments: Sequence[str],
    pool: Pool,
    broker: tuple[str | None, str, dict[str, Path | None]],
    keys: Path | None,
    patience: float,
    *,
    debug: bool = False,
) -> None:
    """Run a queue until Ctrl-C.

    Args:
        folder: of the facility; made if missing.
        instruments: NAME=ENDPOINT for each that is new or has moved.
        pool: who reconstructs.
        broker: address, site, and files for `parse_broker`.
        keys: folder of CURVE keys; None: as in `run`.
        patience: s that campaigns wait for an instrument.
        debug: log more.

    Raises:
        BadInputError: another `serve` runs it, or there is no instrument.
    """
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("agent.facility").setLevel(logging.INFO)
    address, site, files = broker
    mqtt = parse_broker(address, **files).model_copy(update={"site": site}) if address is not None else None
    endpoints = dict(map(_named_endpoint, instruments))
    with Queue(folder, create=True) as queue, only_one(queue.folder):
        queue.set_instruments(endpoints)
        known = queue.instruments()
        if not known:
            msg = "there is no instrument yet; name each once with --instrument NAME=tcp://HOST:PORT"
            raise BadInputError(msg)
        options = ["--wait", f"{patience:g}", *(["--keys", str(keys.absolute())] if keys is not None else [])]
        print(f"serving {queue.folder}: {', '.join(f'{name} at {where}' for name, where in known.items())}", flush=True)
        with _slurm(pool, queue.folder) as cluster:
            asyncio.run(_serve(queue, options, pool, mqtt, cluster))


async def _serve(queue: Queue, options: Sequence[str], pool: Pool, mqtt: Mqtt | None, cluster: Any) -> None:
    facility = Facility(queue, options=options)
    workers = await _workers(pool, cluster)
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: stops.add(asyncio.ensure_future(facility.stop())))
    async with lending(workers, queue.folder), publishing_queue(mqtt, queue, workers):
        await facility.run()
    await asyncio.gather(*stops)


@contextmanager
def _slurm(pool: Pool, folder: Path) -> Iterator[Any]:
    """A cluster of SLURM's jobs, which are taken back in the end; None where none are asked for."""
    *_, dask, jobs = pool
    if jobs is None:
        yield None
        return
    if dask is not None:
        msg = "--dask and --slurm: only one of them can reconstruct"
        raise BadInputError(msg)
    from agent.processing.slurm import cluster_of

    with closing(cluster_of(jobs, folder)) as cluster:
        yield cluster


async def _workers(pool: Pool, cluster: Any) -> Workers:
    count, gpus, dask, _ = pool
    if dask is None and cluster is None:
        return LocalWorkers(count, gpus)
    from agent.processing.dask_workers import DaskWorkers

    if cluster is not None:
        return await DaskWorkers.connected(cluster.scheduler_address, cluster.security)
    assert dask is not None
    return await DaskWorkers.connected(dask)


def add_job(folder: Path, path: Path, instrument: str, *, priority: int, proposal: str, user: str, title: str) -> None:
    """Put a campaign into the queue.

    Args:
        folder: of the facility; made if missing.
        path: campaign file.
        instrument: its name; empty: the only one.
        priority: higher comes first.
        proposal, user, title: empty: as the file's metadata have them.

    Raises:
        BadInputError: the file is no campaign, or the instrument not known.
    """
    config = load_config(path)
    if proposal:
        metadata = config.metadata.model_copy(update={"proposal": proposal})
        config = config.model_copy(update={"metadata": metadata})
    with Queue(folder, create=True) as queue:
        known = queue.instruments()
        if not instrument and len(known) == 1:
            instrument = next(iter(known))
        if instrument not in known if known else not instrument:
            names = ", ".join(known) or "none is known before the first `ptychopilot serve`"
            which = f"there is no instrument {instrument!r}." if instrument else "which instrument is it for?"
            raise BadInputError(f"{which} Name one with --instrument ({names})")
        job = queue.add(
            config, instrument=instrument, directory=Path.cwd(), priority=priority, user=user or _user(), title=title
        )
        ahead = [each.number for each in queue.jobs() if each.instrument == instrument and each.state in OPEN]
    console = Terminal()
    say(console, f"job {job.number}: {job.name} on {instrument}, {ahead.index(job.number)} before it")


def list_jobs(folder: Path, *, everything: bool, json_file: Path | None) -> None:
    """Print the queue.

    Args:
        folder: of the facility.
        everything: also what has ended.
        json_file: where the jobs go as JSON besides.

    Raises:
        BadInputError: there is no queue.
    """
    with Queue(folder) as queue:
        jobs, known = job_messages(queue, None if everything else 0), queue.instruments()
    console = Terminal()
    table = Table("job", "state", "turn", "campaign", "instrument", "prio", "proposal", "user", box=SIMPLE_HEAD)
    for job in jobs:
        turn = "" if job.turn is None else str(job.turn)
        cells = (job.number, job.state, turn, job.campaign, job.instrument, job.priority, job.proposal, job.user)
        table.add_row(*(Text(str(cell)) for cell in cells))
    if jobs:
        console.print(table)
    for job in jobs:
        if job.state == "held":
            say(console, f"job {job.number} is held: {job.reason}")
            say(console, f"  `ptychopilot queue resume {folder} {job.number}` lets it go on, `queue cancel` ends it")
        elif job.state == "queued" and known and job.instrument not in known:
            say(console, f"job {job.number} waits for {job.instrument}, which nobody serves")
    for name, endpoint in known.items():
        on = next(
            (f"job {job.number}, {job.state}" for job in jobs if job.instrument == name and job.state in LEASING),
            "free",
        )
        say(console, f"{name} ({endpoint}): {on}")
    if json_file is not None:
        write_json(json_file, {"jobs": [job.model_dump(mode="json", exclude={"ts", "seq"}) for job in jobs]})


def show_job(folder: Path, number: int) -> None:
    """Print one job and its history.

    Args:
        folder: of the facility.
        number: of the job.

    Raises:
        BadInputError: there is none.
    """
    with Queue(folder) as queue:
        job, history = queue.job(number), queue.history(number)
    console = Terminal()
    say(console, f"job {job.number}: {job.name} on {job.instrument}, {job.state}")
    for name in ("proposal", "user", "title", "priority", "restarts"):
        say(console, f"{name + ':':<10} {getattr(job, name)}")
    if job.folder:
        say(console, f"folder:    {folder.absolute() / CAMPAIGNS / job.folder}")
    for time, state, reason in history:
        say(console, f"{time}  {state}{f': {reason}' if reason else ''}")


def cancel_job(folder: Path, number: int, reason: str) -> None:
    """Take a job out of the queue, or stop it.

    Args:
        folder: of the facility.
        number: of the job.
        reason: why.

    Raises:
        BadInputError: it has ended already.
    """
    with Queue(folder) as queue:
        job = queue.cancel(number, f"cancelled by {_user()}" + (f": {reason}" if reason else ""))
    print(f"job {number}: {job.state}")


def move_job(folder: Path, number: int, priority: int | None, before: int | None) -> None:
    """Give a queued job another turn.

    Args:
        folder: of the facility.
        number: of the job.
        priority: the new one; None: as it is.
        before: number of the one right before which it comes; None: as it is.

    Raises:
        BadInputError: it is not queued, or nothing is asked for.
    """
    if priority is None and before is None:
        raise BadInputError("where to? give --priority N or --before JOB")
    with Queue(folder) as queue:
        queue.move(number, priority=priority, before=before)
        turn = next(job.turn for job in job_messages(queue) if job.number == number)
    print(f"job {number}: turn {turn} of its instrument")


def resume_job(folder: Path, number: int) -> None:
    """Let a job go on.

    Args:
        folder: of the facility.
        number: of the job.

    Raises:
        BadInputError: it needs no such thing.
    """
    with Queue(folder) as queue:
        job = queue.resume(number)
    print(f"job {number}: {job.state}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # in a container a user may be nothing but a number
        return ""


def _named_endpoint(text: str) -> tuple[str, str]:
    name, equals, endpoint = text.partition("=")
    if not name or not equals or not endpoint.startswith("tcp://"):
        msg = f"--instrument {text!r}: a name and an address are expected, NAME=tcp://HOST:PORT"
        raise BadInputError(msg)
    return name, endpoint
