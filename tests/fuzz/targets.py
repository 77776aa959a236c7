"""What is fuzzed: every reader of what others send or write, from bytes, with what it may raise.

A target takes any bytes, and returns or raises one of `REFUSALS`; whatever else comes out of it is a finding.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import cbor2
import h5py
import numpy as np
from examples import plan
from recorded_files import mib_header, npy_of, pixels, write_array

from instrument import wire
from instrument.errors import BadInputError, InstrumentError
from instrument.recordings import RecordingOptions, counts_of, read_recording
from instrument.stream import SeriesStart, decode, encode_end, encode_image, encode_start

REFUSALS = (BadInputError, InstrumentError)
SMALL = RecordingOptions(scan_shape=(2, 3))
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
_FILE = Path(_FOLDER.name) / "scan_1"
"""Alone in its folder, and numbered: the MIB reader looks for the other files of a series."""


def envelope(data: bytes) -> None:
    """A request and a reply of the control socket."""
    for read in (wire.decode_request, wire.decode_reply):
        with contextlib.suppress(*REFUSALS):
            read([b"", wire.MAGIC + bytes([wire.MAJOR]), data])
    cut = len(data) // 2
    wire.decode_request([data[:cut], data[cut:]])


def cbor(data: bytes) -> None:
    """A message of the data socket."""
    decode(data)


def _file(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _FILE.with_suffix(suffix)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recording = read_recording(path, SMALL)
                counts_of(recording)
        finally:
            path.unlink(missing_ok=True)

    return read


TARGETS: dict[str, Callable[[bytes], None]] = {
    "envelope": envelope,
    "cbor": cbor,
    **{name: _file(f".{name}") for name in ("npy", "mib", "hdr", "ndata1", "h5", "emd", "hspy", "raw")},
}
"""By name; those of files are called as their endings."""


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Something sound for each target, to begin from.

    Args:
        folder: to write in.
    """
    request = wire.Request(
        id="q",
        op="prepare",
        args={"plan": plan().model_dump(mode="json")},
        lease=wire.LeaseToken(holder="a", fence=1),
        deadline=1.0,
    )
    start = SeriesStart(
        series_id=1,
        series_unique_id="a1",
        image_dtype="uint16",
        image_size_y=8,
        image_size_x=8,
        number_of_images=6,
        count_time=1e-3,
        frame_time=1e-3,
        incident_energy=8e4,
        saturation_value=65535,
        pixel_mask=np.zeros((8, 8), np.uint32),
        user_data={"acquisition": "a1", "scan_shape": [2, 3]},
    )
    pattern = np.arange(64, dtype=np.uint16).reshape(8, 8)
    counts = pixels("uint16", (16, 16))
    mib = b"".join(mib_header(n, 16, 16, "U16") + each.astype(">u2").tobytes() for n, each in enumerate(counts))
    files = {
        "h5": write_array(folder / "a.h5", "data", counts.reshape(2, 3, 16, 16)).read_bytes(),
        "emd": _emd(folder / "a.emd", counts.reshape(2, 3, 16, 16)),
        "hspy": _hspy(folder / "a.hspy", counts.reshape(2, 3, 16, 16)),
    }
    return {
        "envelope": [wire.encode(request)[2], wire.encode(wire.Reply(id="q", ok=True, result={"clock": 1.0}))[2]],
        "cbor": [
            encode_start(start),
            encode_image(1, "a1", 2, pattern, 0.0, 1.0),
            encode_end(1, "a1"),
            cbor2.dumps({}),
        ],
        "npy": [npy_of(counts.reshape(2, 3, 16, 16))],
        "mib": [mib],
        "hdr": [
            b"HDR,\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t1\nFrames in Acquisition (Number):\t6\nEnd\t"
        ],
        "ndata1": [b"PK\x03\x04" + bytes(60)],
        "raw": [counts.tobytes()],
        **{name: [data] for name, data in files.items()},
    }


def _emd(path: Path, data: np.ndarray) -> bytes:
    with h5py.File(path, "w") as file:
        group = file.create_group("experiment/datacube")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for number in range(4):
            group[f"dim{number + 1}"] = np.arange(2.0)
    return path.read_bytes()


def _hspy(path: Path, data: np.ndarray) -> bytes:
    with h5py.File(path, "w") as file:
        file.attrs["file_format"] = "HyperSpy"
        group = file.create_group("Experiments/scan")
        group["data"] = data
    return path.read_bytes()
