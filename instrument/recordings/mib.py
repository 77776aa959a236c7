"""Merlin MIB files of Quantum Detectors (Medipix3): frames one after the other, each behind a header of text.

A header is a comma-separated line, padded to the length it states: MQ1, number of the frame, length of the header in bytes,
number of chips, width, height, type, layout, chips in use, time, exposure, … The type is U08, U16 or U32, big-endian, or R64: the
chips' own 64-bit words, in which the least significant bits are the first pixel. How many bits a pixel has in R64 (1, 6 or 12;
24 is sent as two images, the upper 12 bits first) is the last number of the header's extension `MQ1A`. Raw frames of a 2 × 2
assembly have their four chips side by side, the two of the lower half turned by 180°. The `.hdr` beside a file says how many
frames one trigger, a scan line, brought; from software 1.5 on it has ScanX and ScanY. A long scan may be a series of numbered
files, NAME000001.mib and so on, beside one NAME.hdr. (Facts: Merlin file format description of Quantum Detectors; series and
ScanX: LiberTEM's documentation.)
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import BadInputError
from instrument.memory import allocate
from instrument.recordings.raster import as_raster
from instrument.recordings.recording import Recording, RecordingOptions

_TYPES = {"U08": "u1", "U16": ">u2", "U32": ">u4"}
_RAW_BITS = {1: 1, 6: 8, 12: 16, 24: 32}
"""Counter depth -> bits a pixel takes in an R64 frame."""
_LARGEST = 1 << 20
"""Bytes of a header, pixels along an edge: more is rubbish, with which files cannot even be positioned."""
_NUMBERED = re.compile(r"(.*?)(\d+)\.mib", re.IGNORECASE)


@dataclass(frozen=True)
class MibHeader:
    """Header of one frame.

    Attributes:
        number: of the frame in its acquisition.
        length: of the header, bytes.
        shape: (height, width) as stored, pixels.
        kind: U08, U16, U32 or R64.
        layout: arrangement of the chips, such as 1x1 or 2x2.
        depth: counter depth in bits where the header says it.
    """

    number: int
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

    @property
    def stride(self) -> int:
        """Bytes from one header to the next."""
        return self.length + self.frame_bytes


class MibFormat:
    """See `RecordingFormat`."""

    name = "Merlin (.mib)"

    def recognises(self, path: Path) -> bool:
        """By the name."""
        return path.suffix.lower() == ".mib"

    def read(self, path: Path, options: RecordingOptions) -> Recording:
        """A memory map, except of R64 frames, which are unpacked, and of a series, which is joined. See `RecordingFormat.read`.

        The scan's shape is `options.scan_shape`, or what the .hdr file beside it says. Where `path` holds fewer frames than the
        scan has, all numbered files of its series are read. Frames that the scan's fly-back brought are left out.
        """
        options.allow_only(path, "scan_shape")
        frames, series, stated = _frames(path), _series(path), _stated(path)
        expected = math.prod(options.scan_shape) if options.scan_shape else stated.get("Frames in Acquisition", 0)
        others = f"{len(series) - 1} other file{'s' if len(series) > 2 else ''} of its series"
        if len(series) > 1 and len(frames) < expected:
            frames = _joined([_header(part) for part in series], [_frames(part) for part in series], path)
            if len(frames) < expected:
                msg = (
                    f"{path}: has with {others} beside it {len(frames)} frames, its scan {expected}; copy all of them into one "
                    f"folder, or give the --scan-shape of what is there"
                )
                raise BadInputError(msg)
        scan_shape = options.scan_shape or _scanned(stated, len(frames))
        if scan_shape is None and len(series) > 1:
            msg = (
                f"{path}: does not say how it was scanned, and {others} lie{'s' if len(series) == 2 else ''} beside it; give the "
                f"--scan-shape of this file ({len(frames)} frames) or of all together"
            )
            raise BadInputError(msg)
        line = _line(stated, len(frames), scan_shape)
        if scan_shape is not None and line > scan_shape[1]:
            return _without_flyback(path, frames, scan_shape, line)
        raster, notes = as_raster(path, frames, scan_shape)
        return Recording(path, raster, notes=notes)


def _header(path: Path) -> MibHeader:
    with path.open("rb") as file:
        header = parse_header(path, file.read(4096))
        if header.kind != "R64" or header.depth != 24:
            return header
        # Merlin's width counts both 12-bit images; other programs' does not. The next frame's header tells.
        single = replace(header, shape=(header.shape[0], header.shape[1] // 2))
        follows = {}
        for candidate in (header, single):
            file.seek(candidate.stride)
            follows[candidate] = file.read(4) == b"MQ1," or path.stat().st_size == candidate.stride
        return single if follows[single] and not follows[header] else header


def _frames(path: Path) -> NDArray[Any]:
    """(frames, ky, kx) of one file."""
    header = _header(path)
    size, one = path.stat().st_size, header.stride
    frames, rest = divmod(size, one)
    if frames == 0 or rest:
        msg = (
            f"{path}: is truncated: {size} bytes are {frames} frames of {one} bytes and {rest} bytes of another; "
            f"copy the file again"
        )
        raise BadInputError(msg)
    if header.kind == "R64":
        return _unpack(path, header, frames)
    record = np.dtype([("header", f"V{header.length}"), ("counts", _TYPES[header.kind], header.shape)])
    counts: NDArray[Any] = np.memmap(path, dtype=record, mode="r", shape=(frames,))["counts"]
    return counts


def _series(path: Path) -> list[Path]:
    """The numbered files to which `path` belongs, itself among them; only itself with a .hdr of its own or without a number."""
    name = _NUMBERED.fullmatch(path.name)
    if name is None or path.with_suffix(".hdr").is_file():
        return [path]
    found = [(_NUMBERED.fullmatch(other.name), other) for other in path.parent.iterdir()]
    alike = [(int(match[2]), other) for match, other in found if match is not None and match[1] == name[1]]
    return [other for _, other in sorted(alike)]


def _joined(headers: list[MibHeader], parts: list[NDArray[Any]], path: Path) -> NDArray[Any]:
    """The frames of a series in the order of their numbers."""
    order = sorted(range(len(parts)), key=lambda i: headers[i].number)
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
        msg = f"{path}: the numbered files beside it have patterns of other sizes or types, so they are no series of one scan"
        raise BadInputError(msg)
    out = allocate((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    first = 0
    for i in order:
        out[first : first + len(parts[i])] = parts[i]
        first += len(parts[i])
    return out


def parse_header(path: Path, start: bytes) -> MibHeader:
    """Read the header with which a file starts. Raises BadInputError."""
    if not start.startswith(b"MQ1,"):
        msg = f"{path}: starts with {start[:4]!r} instead of b'MQ1,', so it is not a Merlin MIB file"
        raise BadInputError(msg)
    parts = start.split(b",", 8)
    try:
        number, length, width, height = int(parts[1]), int(parts[2]), int(parts[4]), int(parts[5])
        kind, arrangement = parts[6].decode("ascii").strip().upper(), parts[7].decode("ascii").strip()
        valid = length >= len(b"".join(parts[:8])) and min(width, height) > 0 and max(length, width, height) <= _LARGEST
    except (IndexError, ValueError) as error:
        msg = f"{path}: has a Merlin header that cannot be understood ({start[:48]!r}…)"
        raise BadInputError(msg) from error
    if not valid:
        told = [str(size)[:12] for size in (length, width, height)]  # of what may have a thousand digits
        msg = f"{path}: has a Merlin header with impossible sizes: {told[0]} bytes long, {told[1]} × {told[2]} pixels"
        raise BadInputError(msg)
    depth = re.search(rb"MQ1A,[^,]*,[^,]*,\s*(\d+)", start[:length])
    header = MibHeader(number, length, (height, width), kind, arrangement, None if depth is None else int(depth[1]))
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


def _stated(path: Path) -> dict[str, int]:
    """Whole numbers of the .hdr file of `path` or of its series, by their names without what stands in brackets."""
    name = _NUMBERED.fullmatch(path.name)
    for hdr in (path.with_suffix(".hdr"), path.with_name(f"{name[1]}.hdr") if name else path.with_suffix(".hdr")):
        if hdr.is_file():
            lines = re.findall(
                r"^([^(:\n]*?) *(?:\([^)\n]*\))?:[ \t]*(\d{1,12})\s*$", hdr.read_text("latin-1"), re.MULTILINE
            )
            return {key: int(value) for key, value in lines}
    return {}


def _scanned(stated: dict[str, int], frames: int) -> tuple[int, int] | None:
    """(lines, positions a line) from ScanY and ScanX, or from the frames per trigger."""
    rows, columns = stated.get("ScanY", 0), stated.get("ScanX", 0)
    if rows * columns == frames or (rows * columns > 0 and _line(stated, frames, (rows, columns)) > columns):
        return rows, columns
    line = stated.get("Frames per Trigger", 0)
    if 1 < line < frames and frames % line == 0:
        return frames // line, line
    return None


def _line(stated: dict[str, int], frames: int, scan_shape: tuple[int, int] | None) -> int:
    """Frames that each line of a scan brought: more than its positions where some came while the beam flew back; 0: not known."""
    if scan_shape is None or frames % scan_shape[0]:
        return 0
    line = frames // scan_shape[0]
    return line if line in (scan_shape[1] + 1, stated.get("Frames per Trigger")) else 0


def _without_flyback(path: Path, frames: NDArray[Any], scan_shape: tuple[int, int], line: int) -> Recording:
    """Leave out the frames that each line has more than positions: at its start where the first one is exposed longest."""
    rows, columns = scan_shape
    header, extra = _header(path), line - columns
    exposures = _exposures(path, header, min(line, path.stat().st_size // header.stride))
    first = extra if exposures[:1] > 1.5 * np.median(exposures) else 0
    raster = frames.reshape(rows, line, *frames.shape[1:])[:, first : first + columns]
    where = "first" if first else "last"
    note = f"each line has {line} frames for {columns} positions: its {where} {extra} (fly-back) left out"
    return Recording(path, raster, notes=(note,))


def _exposures(path: Path, header: MibHeader, n: int) -> NDArray[np.float64]:
    """Exposure times of the first n frames, s; 0 where a header does not tell it."""
    times = np.zeros(n)
    with path.open("rb") as file:
        for i in range(n):
            file.seek(i * header.stride)
            with contextlib.suppress(IndexError, ValueError):
                times[i] = float(file.read(header.length).split(b",", 11)[10])
    return times


def _unpack(path: Path, header: MibHeader, frames: int) -> NDArray[Any]:
    """(frames, ky, kx) of R64 frames: every 64-bit word turned round is an array of little-endian pixels."""
    depth, (height, width) = header.depth or 0, header.shape
    images = 2 if depth == 24 else 1
    row = width * _RAW_BITS[depth] // 8 // images
    if row * 8 * images != width * _RAW_BITS[depth] or row % 8:
        msg = f"{path}: raw frames (R64) are words of 64 bits; rows of {width} pixels of {depth} bits do not fill them"
        raise BadInputError(msg)
    record = np.dtype([("header", f"V{header.length}"), ("words", "u1", (images * height, row // 8, 8))])
    mapped = np.memmap(path, dtype=record, mode="r", shape=(frames,))["words"]
    quad = header.layout == "2x2" and width == 4 * height
    shape = (2 * height, 2 * height) if quad else (height, width)
    out = allocate((frames, *shape), {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[depth])
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
