"""A facility in a storm: simulated instruments, a queue of tiny campaigns, and somebody who kills workers and broker at random.

`make soak-serve` plays the long version: 3 instruments, 30 campaigns, and `serve` itself is killed too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import psutil
from served_small_world import CAMPAIGN, PROCESSING, Server, ledger

from agent.config import CampaignConfig
from agent.facility.jobs import OPEN, JobState
from agent.facility.queue import CAMPAIGNS, Queue
from agent.storage.journal import Journal
from instrument.status import LedgerEntry

HERE = Path(__file__).parent
MAIN = "import sys; from agent.cli import main; main(sys.argv[1:])"
POLL_S = 0.1


@dataclass
class Storm:
    """What is played.

    Attributes:
        instruments, campaigns, workers: how many.
        kills: of workers, brokers and `serve`, drawn from `victims` by `seed`, one every `pause` s.
        interval: s of an instrument's frame.
        limit: s after which it has failed.
    """

    instruments: int = 3
    campaigns: int = 30
    workers: int = 2
    kills: int = 40
    victims: tuple[str, ...] = ("worker", "worker", "broker", "serve")
    pause: float = 5.0
    interval: float = 0.001
    limit: float = 3600.0
    seed: int = 0


class Serving:
    """`ptychopilot serve` in a process of its own, which can be killed."""

    def __init__(self, folder: Path, instruments: dict[str, str], workers: int, broker: int | None) -> None:
        self.folder = folder
        named = [word for name, endpoint in instruments.items() for word in ("-i", f"{name}={endpoint}")]
        mqtt = ["--mqtt", f"mqtt://127.0.0.1:{broker}"] if broker is not None else []
        self._command = [
            *(sys.executable, "-c", MAIN, "serve", str(folder), *named),
            *("--workers", str(workers), "--wait", "20", *mqtt),
        ]
        self.start()

    def start(self) -> None:
        with (self.folder.parent / "serve.txt").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def workers(self) -> list[psutil.Process]:
        """The reconstruction processes."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [each for each in children if _command_of(each).count("agent.processing.child")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl-C does, and at once where that takes too long."""
        for limit in (60, 60, 10):
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(limit)
            except subprocess.TimeoutExpired:
                continue
            return
        self.kill()


class Broker:
    """Mosquitto, which can be killed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["mosquitto", "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def play(storm: Storm, folder: Path) -> Counter[str]:
    """Play it, and hold it to what a facility relies on. The caller has made the small world importable.

    Args:
        storm: what is played.
        folder: for everything that is written.

    Returns:
        How often each victim was killed.
    """
    with ExitStack() as stack:
        broker = None
        if shutil.which("mosquitto") is not None:
            broker = Broker(folder)
            stack.callback(broker.kill)
        instruments = {}
        for number in range(storm.instruments):
            server = Server(folder / f"i{number}", storm.interval)
            stack.callback(server.close)
            instruments[f"i{number}"] = server.endpoint
        queue = stack.enter_context(Queue(folder / "facility", create=True))
        queue.set_instruments(instruments)
        rng = random.Random(storm.seed)
        for number in range(storm.campaigns):
            config = campaign(number, None if broker is None else broker.port)
            queue.add(config, instrument=f"i{number % storm.instruments}", directory=HERE, priority=rng.randrange(3))
        serving = Serving(queue.folder, instruments, storm.workers, None if broker is None else broker.port)
        stack.callback(serving.stop)
        killed = _wreak_havoc(storm, rng, queue, serving, broker)
        serving.stop()
        check(queue, {name: asyncio.run(ledger(endpoint)) for name, endpoint in instruments.items()})
    return killed


def campaign(number: int, broker: int | None) -> CampaignConfig:
    """A second or two of work: two trials and a final picture.

    Args:
        number: in its name and seed.
        broker: port; None: it tells nobody.
    """
    changes = {
        "name": f"c{number}",
        "electrons": 4e5,
        "area": {"height": 14, "width": 14, **_place(number)},
        "exploration": {"trials": 2, "height": 14, "width": 14, "initial": 2},
        "metadata": {"proposal": f"P-{number % 4}", "operator": "A. Tester"},
        "processing": PROCESSING,
        "seed": number,
        "mqtt": None if broker is None else {"host": "127.0.0.1", "port": broker},
    }
    return CampaignConfig.model_validate({**CAMPAIGN, **changes})


def _place(number: int) -> dict[str, float]:
    """Far enough from the areas of others on the same specimen."""
    row, column = divmod(number % 25, 5)
    return {"y": 25.0 + 76 * row, "x": 25.0 + 76 * column}


def _wreak_havoc(
    storm: Storm, rng: random.Random, queue: Queue, serving: Serving, broker: Broker | None
) -> Counter[str]:
    """Kill and start again until the queue is empty."""
    killed: Counter[str] = Counter()
    begun, due = time.monotonic(), time.monotonic() + storm.pause
    while jobs := queue.jobs(*OPEN):
        held = [(job.number, job.reason) for job in jobs if job.state is JobState.HELD]
        assert not held, f"a person is asked for: {held}"
        assert time.monotonic() - begun < storm.limit, (
            f"not at its end: {[(job.number, str(job.state)) for job in jobs]}"
        )
        assert serving.process.poll() is None, "serve has ended by itself"
        time.sleep(POLL_S)
        workers = serving.workers()
        if time.monotonic() < due or killed.total() >= storm.kills or not workers:  # nobody is at work yet
            continue
        victim, due = rng.choice(storm.victims), time.monotonic() + storm.pause
        if victim == "worker":
            rng.choice(workers).kill()
        elif victim == "broker" and broker is not None:
            broker.kill()
            broker.start()
        elif victim == "serve":
            serving.kill()
            serving.start()
        else:
            continue
        killed[victim] += 1
    return killed


def check(queue: Queue, ledgers: dict[str, list[LedgerEntry]]) -> None:
    """All are done, each in a folder of its own, and what an instrument has booked is what its campaigns know of.

    Args:
        queue: in the end.
        ledgers: of the instruments, by name.
    """
    jobs = [job for job in queue.jobs() if job.state is not JobState.CANCELLED]
    assert [(job.name, job.reason) for job in jobs if job.state is not JobState.DONE] == []
    for name, entries in ledgers.items():
        assert {str(entry.state) for entry in entries} <= {"done", "aborted"}, "no reservation is left open"
        spent: dict[str, float] = {}
        for entry in entries:
            spent[entry.campaign] = spent.get(entry.campaign, 0.0) + entry.electrons
        known = {}
        for job in jobs:
            if job.instrument == name:
                with Journal.open(queue.folder / CAMPAIGNS / job.folder) as journal:
                    assert journal.facts.recommended is not None
                    known[journal.facts.campaign] = sum(trial.electrons for trial in journal.trials())
        assert spent.keys() == known.keys()
        for campaign_id, electrons in spent.items():
            assert abs(known[campaign_id] - electrons) <= 1e-6 * electrons, (name, campaign_id)
        dosed = [entry for entry in entries if entry.dose > 0]
        for one, other in combinations(dosed, 2):
            assert not one.illuminated.overlaps(other.illuminated, 1e-4), (one.id, other.id)


def free_port() -> int:
    """A TCP port of this machine that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def main() -> None:
    """The long version, in a folder that stays where it fails."""
    folder = Path(tempfile.mkdtemp(prefix="soak-serve-"))
    world = folder / "world"
    world.mkdir()
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ.update(SMALL_WORLD=str(world), PYTHONPATH=os.pathsep.join(filter(None, paths)))
    begun = time.monotonic()
    print(f"folder: {folder}", flush=True)
    storm = Storm(**json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})
    killed = play(storm, folder)
    took = time.monotonic() - begun
    print(f"{storm.campaigns} campaigns done in {took:.0f} s, ledgers balanced; killed: {dict(killed)}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
