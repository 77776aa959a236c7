"""Merlin MIB files of Quantum Detectors (Medipix3): frames one after the other, each behind a header of text.

A frame's header is a comma-separated line that starts with `MQ1,` and is padded to the length it states:

    MQ1, sequence number, length of the header in bytes, number of chips, width, height, type, layout, chips in use, time,
    exposure, …

The type is U08, U16 or U32, big-endian, or R64: the chips' own 64-bit words, in which the least significant bits are the
first pixel. How many bits a pixel has in R64 (1, 6 or 12; 24 is sent as two images, the upper 12 bits first) is the counter
depth, the last number of the header's extension `MQ1A`. Raw frames of a 2 × 2 assembly have their four chips side by
side, the two of the lower half turned by 180°. The `.hdr` beside a file says how many frames one trigger, a scan line,
brought. (Facts: Merlin file format description of Quantum Detectors.)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction.patterns import room
from agent.reconstruction.raw_arrays import ArrayLayout, as_raster

_TYPES = {"U08": "u1", "U16": ">u2", "U32": ">u4"}
_RAW_BITS = {1: 1, 6: 8, 12: 16, 24: 32}
"""Counter depth -> bits a pixel takes in an R64 frame."""


@dataclass(frozen=True)
class MibHeader:
    """Header of one frame.

    Attributes:
        length: of the header, bytes.
        shape: (height, width) as stored, pixels.
        kind: U08, U16, U32 or R64.
        layout: arrangement of the chips, such as 1x1 or 2x2.
        depth: counter depth in bits where the header says it.
    """

    length: int
    shape: tuple[int, int]
    kind: str
    layout: str
    depth: int | None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame without its header."""
        bits = _RAW_BITS[self.depth or 0] if self.kind == "R64" else 8 * np.dtype(_TYPES[self.kind]).itemsize
        return math.prod(self.shape) * bits // 8


def map_mib(path: Path, layout: ArrayLayout) -> NDArray[Any]:
    """(scan_y, scan_x, ky, kx) counts: a memory map, except of R64 frames, which are unpacked.

    The scan's shape is `layout.scan_shape`, or what the .hdr file beside it says.

    Raises:
        BadInputError: not a MIB file, an unknown header, truncated, or another number of frames than the scan has.
    """
    layout.allow_only(path, "scan_shape")
    with path.open("rb") as file:
        header = parse_header(path, file.read(4096))
    size, one = path.stat().st_size, header.length + header.frame_bytes
    frames, rest = divmod(size, one)
    if frames == 0 or rest:
        msg = (
            f"{path}: is truncated: {size} bytes are {frames} frames of {one} bytes and {rest} bytes of another; "
            f"copy the file again"
        )
        raise BadInputError(msg)
    scan_shape = layout.scan_shape or _scanned(path.with_suffix(".hdr"), frames)
    if header.kind == "R64":
        return as_raster(path, _unpack(path, header, frames), scan_shape)
    record = np.dtype([("header", f"V{header.length}"), ("counts", _TYPES[header.kind], header.shape)])
    mapped: NDArray[Any] = np.memmap(path, dtype=record, mode="r", shape=(frames,))["counts"]
    return as_raster(path, mapped, scan_shape)


def parse_header(path: Path, start: bytes) -> MibHeader:
    """Read the header with which a file starts. Raises BadInputError."""
    if not start.startswith(b"MQ1,"):
        msg = f"{path}: starts with {start[:4]!r} instead of b'MQ1,', so it is not a Merlin MIB file"
        raise BadInputError(msg)
    parts = start.split(b",", 8)
    try:
        length, width, height = int(parts[2]), int(parts[4]), int(parts[5])
        kind, arrangement = parts[6].decode("ascii").strip().upper(), parts[7].decode("ascii").strip()
        valid = length >= len(b"".join(parts[:8])) and width > 0 and height > 0
    except (IndexError, ValueError) as error:
        msg = f"{path}: has a Merlin header that cannot be understood ({start[:48]!r}…)"
        raise BadInputError(msg) from error
    if not valid:
        msg = f"{path}: has a Merlin header with impossible sizes: {length} bytes long, {width} × {height} pixels"
        raise BadInputError(msg)
    depth = re.search(rb"MQ1A,[^,]*,[^,]*,\s*(\d+)", start[:length])
    header = MibHeader(length, (height, width), kind, arrangement, None if depth is None else int(depth[1]))
    if kind == "R64" and header.depth not in _RAW_BITS:
        msg = f"{path}: raw frames (R64) need the counter depth in their header; it says {header.depth}, legal: 1, 6, 12, 24"
        raise BadInputError(msg)
    if kind == "R64" and arrangement not in ("1x1", "2x2"):
        msg = f"{path}: raw frames (R64) of a {arrangement} assembly are not supported; legal: 1x1, 2x2; save as U08 or U16"
        raise BadInputError(msg)
    if kind != "R64" and kind not in _TYPES:
        msg = (
            f"{path}: pixels of type {kind} are not supported; legal: {', '.join(_TYPES)}, R64; save it as one of these"
        )
        raise BadInputError(msg)
    return header


def _scanned(hdr: Path, frames: int) -> tuple[int, int] | None:
    """(lines, positions a line) from ScanY and ScanX, or from the frames per trigger, where the .hdr file has them."""
    if not hdr.is_file():
        return None
    text = hdr.read_text(encoding="latin-1")

    def number(name: str) -> int:
        found = re.search(rf"^{name}[^:\n]*:\s*(\d+)\s*$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    rows, columns = number("ScanY"), number("ScanX")
    if rows * columns == frames:
        return rows, columns
    line = number("Frames per Trigger")
    if 1 < line < frames and frames % line == 0:
        return frames // line, line
    return None


def _unpack(path: Path, header: MibHeader, frames: int) -> NDArray[Any]:
    """(frames, ky, kx) of R64 frames: every 64-bit word turned round is an array of little-endian pixels."""
    depth, (height, width) = header.depth or 0, header.shape
    images = 2 if depth == 24 else 1
    row = width * _RAW_BITS[depth] // 8 // images
    record = np.dtype([("header", f"V{header.length}"), ("words", "u1", (images * height, row // 8, 8))])
    mapped = np.memmap(path, dtype=record, mode="r", shape=(frames,))["words"]
    quad = header.layout == "2x2" and width == 4 * height
    shape = (2 * height, 2 * height) if quad else (height, width)
    out = room((frames, *shape), {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[depth])
    for i in range(frames):
        turned = np.ascontiguousarray(mapped[i, ..., ::-1]).reshape(images * height, row)
        if depth == 1:
            image: NDArray[Any] = np.unpackbits(turned, axis=1, bitorder="little")
        else:
            image = turned if depth == 6 else turned.view("<u2")
        if images == 2:
            image = (image[:height].astype(np.uint32) << 12) | image[height:]
        out[i] = _assembled(image) if quad else image
    return out


def _assembled(strip: NDArray[Any]) -> NDArray[Any]:
    """The (2h, 2h) picture of four (h, h) chips stored side by side: lower right and left, turned, upper right and left."""
    lower_right, lower_left, upper_right, upper_left = np.split(strip, 4, axis=1)
    return np.block([[upper_left, upper_right], [lower_left[::-1, ::-1], lower_right[::-1, ::-1]]])
