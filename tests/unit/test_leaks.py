"""A test that leaves something running behind fails, and no other test because of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKY = """
import asyncio, subprocess, threading, time, zmq

kept = []

def test_thread():
    threading.Thread(target=time.sleep, args=(3.0,), name="left alone", daemon=True).start()

def test_socket_and_process():
    kept.append(zmq.Context.instance().socket(zmq.PULL))
    kept.append(subprocess.Popen(["sleep", "600"]))

async def test_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(600)))

def test_nothing():
    kept[1].kill()
"""


def test_what_is_left_running_fails_the_test_that_left_it(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    options = ("-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-p", "no:zarr", "-p", "no:anyio")
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed, 3 errors" in done.stdout, done.stdout
    for named in ("left alone", "zmq.Socket(zmq.PULL)", "sleep 600", "tasks left behind"):
        assert named in done.stdout, done.stdout
