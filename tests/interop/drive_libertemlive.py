"""Drive LiberTEM-live's Merlin simulator, read its DECTRIS simulator, and let its DECTRIS client read our simulated instrument.

Usage: python drive_libertemlive.py ENVIRONMENT
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from driving import first_json, free_port  # noqa: E402
from recorded_files import mib_header  # noqa: E402

from instrument import AcquisitionPlan, InstrumentClient, Rectangle, decode_chunk, stream  # noqa: E402
from instrument.adapters.merlin import MerlinCamera, MerlinError  # noqa: E402
from instrument.legacy_stream import LegacyDecoder  # noqa: E402

SCAN, SIDE = (16, 16), 64
SLOW = 180.0
"""s: numba compiles in the foreign program."""


@contextmanager
def running(*program: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def write_mib(folder: Path) -> tuple[Path, np.ndarray]:
    """A MIB file of a scan with its .hdr; path of that, and the frames."""
    frames = np.random.default_rng(7).poisson(30, (SCAN[0] * SCAN[1], SIDE, SIDE)).astype(np.uint16)
    content = b"".join(
        mib_header(1 + n, SIDE, SIDE, "U16").rstrip(b" ,").ljust(384) + frame.astype(">u2").tobytes()
        for n, frame in enumerate(frames)
    )
    (folder / "t.mib").write_bytes(content)
    told = {
        "Frames in Acquisition (Number)": len(frames),
        "Frames per Trigger (Number)": SCAN[1],
        "Counter Depth (number)": 12,
    }
    lines = "".join(f"{key}:\t{value}\n" for key, value in told.items())
    (folder / "t.hdr").write_text(f"HDR,\n{lines}End\t")
    return folder / "t.hdr", frames


async def opened(control: int, data: int) -> MerlinCamera:
    camera = MerlinCamera(
        "127.0.0.1", control, data, shape=(SIDE, SIDE), angular_pixel=0.6, frame_rate=1e3, trigger="soft"
    )
    until = time.monotonic() + SLOW
    while time.monotonic() < until:
        try:
            return await camera.__aenter__()
        except MerlinError:
            await asyncio.sleep(0.5)
    raise SystemExit("the Merlin simulator does not answer")


async def drive_merlin(environment: Path, folder: Path, *garbage: str) -> None:
    header, frames = write_mib(folder)
    control, data, trigger = (free_port() for _ in range(3))
    ports = ("--control-port", str(control), "--data-port", str(data), "--trigger-port", str(trigger))
    program = (str(environment / "bin" / "libertem-live-mib-sim"), str(header), "--nav-shape", "16", "16")
    with running(*program, "--host", "127.0.0.1", *ports, "--wait-trigger", *garbage):
        camera = await opened(control, data)
        names = []
        for taken in (len(frames), 40, len(frames)):  # the second is aborted
            name, first = await camera.arm(len(frames), 1e-3)
            names.append(name)
            await camera.trigger()
            for number in range(first, first + taken):
                frame = await camera.frame(SLOW)
                assert frame is not None
                assert (frame.series, frame.number) == (name, number), (frame.series, frame.number)
                assert (frame.pattern == frames[number - first]).all()
        assert float(await camera.get("ACQUISITIONTIME")) == 1.0
        await camera.__aexit__(None, None, None)
    told = " behind garbage" if garbage else ""
    print(
        f"Merlin simulator: series {names}, {len(frames)} of {len(frames)} frames equal{told}, one of them after an abort"
    )


class Frames:
    """Keeps what our client receives."""

    def __init__(self) -> None:
        self.patterns: dict[int, np.ndarray] = {}

    def start(self, header: object) -> None: ...

    def frame(self, index: int, chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.patterns[index] = decode_chunk(chunk, shape, dtype)


def said(program: subprocess.Popen[str], word: str) -> None:
    """Wait until a program says a word."""
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() == word:
            return
    raise SystemExit(f"{program.args} ended before it said {word!r}")


async def expose(control: str) -> np.ndarray:
    """One scan with our client; its frames."""
    sink = Frames()
    async with InstrumentClient(control, timeout=60.0) as client:
        told = await client.describe()
        await client.open_campaign("viewed", 1e9)
        plan = AcquisitionPlan(
            id="viewed",
            campaign="viewed",
            region="r",
            field=Rectangle(y=told.area.y + 50, x=told.area.x + 50, height=8, width=8),
            step=1.0,
            defocus=100.0,
            dose=5e3,
        )
        async with client.lease():
            await client.prepare(plan)
            assert (await client.acquire(plan.id, sink)).state == "done"
    return np.stack([sink.patterns[index] for index in range(plan.n_positions)])


def show_ours(environment: Path, folder: Path) -> None:
    """LiberTEM's client receives what our client does."""
    uri, seen = f"tcp://127.0.0.1:{free_port()}", folder / "seen.npy"
    simulate = (sys.executable, "-m", "sim_instrument", "simulate", "--state-dir", str(folder / "state"))
    ends = (str(environment / "bin" / "python"), str(FOLDER / "libertem_dectris_ends.py"))
    with running(*simulate, "--legacy-stream", uri) as simulator:
        control = first_json(simulator)["control"]
        with running(*ends, "read", uri, str(seen)) as reader:
            said(reader, "listening")
            time.sleep(1.0)  # until it has connected
            ours = asyncio.run(expose(control))
            said(reader, "saved")
    theirs = np.load(seen)
    assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype), (theirs.shape, theirs.dtype)
    assert (theirs == ours).all()
    print(f"LiberTEM's DECTRIS client: {len(theirs)} of {len(ours)} frames of our simulated instrument, all equal")


def receive(uri: str, sender: subprocess.Popen[str]) -> tuple[np.ndarray, int]:
    """A series of LiberTEM's simulated detector, by our decoder; frames, and how many were announced."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.connect(uri)
    assert sender.stdin is not None
    sender.stdin.write("\n")
    sender.stdin.flush()
    decoder, frames, announced = LegacyDecoder(), {}, 0
    while pull.poll(int(1e3 * SLOW)):
        message = decoder.decode(pull.recv_multipart())
        if isinstance(message, stream.SeriesStart):
            announced = message.number_of_images
        elif isinstance(message, stream.SeriesImage):
            frames[message.image_id] = decode_chunk(message.chunk, message.shape, message.dtype)
        elif isinstance(message, stream.SeriesEnd):
            break
    context.destroy(linger=0)
    return np.stack([frames[number] for number in range(len(frames))]), announced


def read_theirs(environment: Path, folder: Path) -> None:
    """Our decoder receives what LiberTEM's client does, from LiberTEM's simulated detector."""
    uri, seen = f"tcp://127.0.0.1:{free_port()}", folder / "theirs.npy"
    ends = (str(environment / "bin" / "python"), str(FOLDER / "libertem_dectris_ends.py"))
    with running(*ends, "send", uri) as sender:
        said(sender, "bound")
        with running(*ends, "read", uri, str(seen)) as reader:
            said(reader, "listening")
            assert sender.stdin is not None
            sender.stdin.write("\n")
            sender.stdin.flush()
            said(sender, "sent")
            said(reader, "saved")
        ours, announced = receive(uri, sender)
    theirs = np.load(seen)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert (ours == theirs).all()
    assert announced == len(ours)
    size = "×".join(map(str, ours.shape[1:]))
    print(
        f"LiberTEM's DECTRIS simulator: {len(ours)} of {announced} frames of {size} {ours.dtype}, as its client has them"
    )


def main() -> None:
    environment = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="drive-libertemlive-") as folder:
        asyncio.run(drive_merlin(environment, Path(folder)))
        asyncio.run(drive_merlin(environment, Path(folder), "--garbage"))
        read_theirs(environment, Path(folder))
        show_ours(environment, Path(folder))


if __name__ == "__main__":
    main()
