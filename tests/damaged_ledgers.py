"""Ledgers whose files were damaged or cut off: they are refused, or open with everything booked that had been."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from examples import check, plan

from instrument.errors import InstrumentError
from instrument.ledger import Ledger


def use(ledger: Ledger) -> None:
    """Two campaigns, some exposures of each, and a visit to SAFE."""
    for campaign, budget in (("c", 1e6), ("d", 3e6)):
        ledger.open_campaign(campaign, budget)
        for number in range(12):
            scan = plan(f"{campaign}{number}", 10.0, 20.0 * number, 0.0, campaign=campaign)
            ledger.reserve(scan, check(scan), None)
            if number % 4 < 3:
                ledger.mark_running(scan.id)
            if number % 4 < 2:
                ledger.finish(scan.id, "done", frames=100, electrons=scan.electrons)
    ledger.record_event("safe", "the lease lapsed")
    ledger.record_event("resume", "looked at it", "Ada")


def booked(folder: Path) -> dict[str, float]:
    """What an agent cannot spend any more, of each campaign; of its budget what was more than it had been would be a loss too."""
    ledger = Ledger(folder)
    try:
        return {name: 3e6 - ledger.account(name).left for name in ("c", "d")}
    finally:
        ledger.close()


def damage(folder: Path, rng: random.Random) -> str:
    """Change bytes of one of the files of the books, or cut it off; its name. The note of SAFE has no electrons."""
    file = rng.choice([path for path in sorted(folder.iterdir()) if path.stat().st_size and path.suffix != ".safe"])
    data = bytearray(file.read_bytes())
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    else:
        begin, count = rng.randrange(len(data)), rng.choice([1, 1, 8, 100, 5000])
        for place in range(begin, min(begin + count, len(data))):
            data[place] = rng.randrange(256)
    file.write_bytes(data)
    return file.name


def open_damaged(states: Sequence[Path], scratch: Path, count: int, seed: int) -> int:
    """Damage copies of state directories and open them; how many were refused."""
    rng, refused, undamaged = random.Random(seed), 0, []
    for number, state in enumerate(states):
        shutil.copytree(state, scratch / f"undamaged-{number}")
        undamaged.append(booked(scratch / f"undamaged-{number}"))
    for number in range(count):
        folder, which = scratch / str(number), number % len(states)
        shutil.copytree(states[which], folder)
        file = damage(folder, rng)
        try:
            found = booked(folder)
        except InstrumentError:
            refused += 1
        else:
            assert all(found[name] >= spent for name, spent in undamaged[which].items()), (
                number,
                file,
                found,
                undamaged[which],
            )
        shutil.rmtree(folder)
    return refused
