"""An instrument that the agent starts as a process of its own, and ends when it is done with it."""

from __future__ import annotations

import ctypes
import json
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.errors import BadInputError, InstrumentUnavailableError

PR_SET_PDEATHSIG = 1
START_TIMEOUT = 90.0
"""s until the process must have said that it is ready."""
ATTEMPTS = 3
_OPTIONS = {"--column": re.compile(r"[A-Za-z0-9_-]{1,40}"), "--seed": re.compile(r"[0-9]{1,18}")}
"""Of the demo's simulator, and what they may be."""
PAUSE = 1.0
"""s between two attempts to start it."""


def simulator_command(state: Path, *options: str) -> list[str]:
    """The command that serves the simulated microscope on a free port.

    Args:
        state: folder that remembers what was exposed.
        options: further ones of `ptychopilot simulate`.
    """
    command = [sys.executable, "-m", "sim_instrument", "simulate", "--control", "tcp://127.0.0.1:*"]
    return [*command, "--state", str(state), *options]


def again(command: Sequence[str], state: Path) -> list[str]:
    """The command that serves the simulated microscope of a campaign folder once more.

    What stands in the folder is not run: its options are read, and the command is made anew of those that are known.

    Args:
        command: as the folder's journal has it.
        state: of the folder's instrument.

    Raises:
        BadInputError: it is no command of `simulator_command`.
    """
    words = list(command)
    start = words.index("simulate") + 1 if "simulate" in words[:4] else len(words)
    pairs = dict(zip(words[start::2], words[start + 1 :: 2], strict=False))
    options = {key: value for key, value in pairs.items() if key not in ("--control", "--state")}
    if words[1:4] != ["-m", "sim_instrument", "simulate"] or not all(
        key in _OPTIONS and _OPTIONS[key].fullmatch(value) for key, value in options.items()
    ):
        msg = (
            f"the campaign's folder says that its instrument is started by {' '.join(words)[:200]!r}, which is not a command of "
            "`ptychopilot demo` and is not run; start the instrument yourself and name it with --instrument"
        )
        raise BadInputError(msg)
    return simulator_command(state, *(word for option in options.items() for word in option))


@contextmanager
def instrument_process(command: Sequence[str], log: Path) -> Iterator[str]:
    """Run `command`, an instrument server, and yield its control endpoint once it has said that it is ready.

    Ctrl-C does not reach it, so that the agent can end an exposure in order; when the agent dies it is ended too (on Linux).

    Args:
        command: program and arguments.
        log: file that its standard error is appended to.

    Raises:
        InstrumentUnavailableError: it does not start.
    """
    process, endpoint = _start(command, log)
    try:
        yield endpoint
    finally:
        _end(process)


def _start(command: Sequence[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    for attempt in range(ATTEMPTS):
        with log.open("ab") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, preexec_fn=_end_with_parent
            )
        try:
            endpoint = _ready(process)
        except BaseException:
            _end(process)
            raise
        if endpoint is not None:
            return process, endpoint
        _end(process)
        # the instrument of an agent that has just been killed may still hold its ledger for a moment
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = lines[-1] if lines else "it said nothing"
    msg = f"the instrument's process did not start: {why} (all it said is in {log})"
    raise InstrumentUnavailableError(msg)


def _ready(process: subprocess.Popen[bytes]) -> str | None:
    """The control endpoint from the one line of JSON that the process prints, None where it ends or stays silent."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START_TIMEOUT):
            return None
    line = process.stdout.readline()
    try:
        return str(json.loads(line)["control"])
    except (ValueError, KeyError, TypeError):
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _end_with_parent() -> None:
    """In the new process: ask the kernel for SIGTERM when the agent is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
