"""Drive Diamond's simulated EIGER (tickit-devices) with our SIMPLON camera: order of commands, series after series, an abort.

Usage: python drive_tickit.py ENVIRONMENT
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from driving import free_port

from instrument.adapters.simplon import SimplonCamera, SimplonError

FRAMES = 4
IMAGE = (4362, 4148), 82120283837
"""Shape and sum of the one image that it has."""


async def opened(camera: SimplonCamera) -> SimplonCamera:
    for _ in range(120):
        try:
            return await camera.__aenter__()
        except SimplonError:
            await asyncio.sleep(0.5)
    raise SystemExit("tickit does not answer")


async def series(camera: SimplonCamera, frames: int = FRAMES) -> int:
    name, first = await camera.arm(frames, 0.05)
    triggered = asyncio.ensure_future(camera.trigger())
    for number in range(first, first + frames):
        frame = await camera.frame(20.0)
        assert frame is not None
        assert (frame.series, frame.number) == (name, number), (frame.series, frame.number)
        assert (frame.pattern.shape, int(frame.pattern.sum(dtype="u8"))) == IMAGE
    await triggered
    await camera.disarm()
    return int(name)


async def drive(rest: str, stream: str) -> None:
    camera = await opened(SimplonCamera(rest, stream, angular_pixel=0.1, trigger="ints"))
    assert camera.detector.shape == IMAGE[0]
    names = [await series(camera) for _ in range(2)]
    await camera.arm(FRAMES, 0.05)
    await camera.disarm()  # before its trigger: abort, then disarm
    names.append(await series(camera))
    assert names == sorted(set(names)), names
    print(f"tickit: series {names}, {FRAMES} images each, and one that was aborted")


def main() -> None:
    rest, stream, legacy = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "eiger.yaml"
        configuration.write_text(
            f"- {{type: tickit_devices.eiger.Eiger, inputs: {{}}, name: eiger, host: 127.0.0.1, port: {rest}, "
            f"stream_cbor_port: {stream}, stream_legacy_port: {legacy}}}\n"
        )
        program = [str(Path(sys.argv[1]) / "bin" / "python"), "-m", "tickit", "all", str(configuration)]
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tickit:
            try:
                asyncio.run(drive(f"http://127.0.0.1:{rest}", f"tcp://127.0.0.1:{stream}"))
            finally:
                tickit.kill()


if __name__ == "__main__":
    main()
