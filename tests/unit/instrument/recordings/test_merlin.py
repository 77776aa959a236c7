"""Merlin's files, written here byte by byte as the format's documentation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recorded_files import NUMBERS, SCAN, mib_header, pixels, read

from instrument.errors import BadInputError
from instrument.recordings import RecordingOptions, counts_of, read_recording


def write_mib(path: Path, frames: list[bytes], *header: Any, **more: Any) -> None:
    path.write_bytes(b"".join(mib_header(i + 1, *header, **more) + frame for i, frame in enumerate(frames)))


def turned_words(frame: bytes) -> bytes:
    """The 64-bit words of a frame of little-endian pixels as Medipix sends them: most significant byte first."""
    return b"".join(frame[i : i + 8][::-1] for i in range(0, len(frame), 8))


@pytest.mark.parametrize(("kind", "stored"), [("U08", "u1"), ("U16", ">u2"), ("U32", ">u4")])
def test_mib_frames_are_mapped_from_behind_their_headers(tmp_path: Path, kind: str, stored: str) -> None:
    counts = pixels(stored)
    write_mib(tmp_path / "scan.mib", [c.astype(stored).tobytes() for c in counts], 64, 16, kind)
    file = read(tmp_path / "scan.mib", SCAN, **NUMBERS)
    assert (file.patterns == counts).all()
    assert isinstance(file.patterns, np.memmap)
    assert file.scan_shape == (2, 3)


def test_mib_of_one_frame_spelled_out(tmp_path: Path) -> None:
    frame = bytes([0x00, 0x01, 0x00, 0x02, 0x01, 0x00, 0xFF, 0xFF])
    write_mib(tmp_path / "scan.mib", [frame], 2, 2, "U16")
    file = read(tmp_path / "scan.mib", RecordingOptions(scan_shape=(1, 1)), **NUMBERS)
    assert file.patterns.tolist() == [[[1, 2], [256, 65535]]]


@pytest.mark.parametrize(("depth", "dtype"), [(1, "u1"), (6, "u1"), (12, "<u2")])
def test_raw_mib_frames_are_unpacked_from_64_bit_words(tmp_path: Path, depth: int, dtype: str) -> None:
    counts = pixels(dtype) & (2**depth - 1)
    little = [np.packbits(c, bitorder="little") if depth == 1 else c for c in counts]
    write_mib(tmp_path / "scan.mib", [turned_words(c.tobytes()) for c in little], 64, 16, "R64", depth=depth)
    assert (read(tmp_path / "scan.mib", SCAN, **NUMBERS).patterns == counts).all()


def test_raw_mib_of_24_bits_is_two_images(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 2**24, (6, 16, 64)).astype("<u4")
    frames = [
        turned_words((c >> 12).astype("<u2").tobytes()) + turned_words((c & 4095).astype("<u2").tobytes())
        for c in counts
    ]
    write_mib(tmp_path / "scan.mib", frames, 64, 16, "R64", depth=24)
    assert (read(tmp_path / "scan.mib", SCAN, **NUMBERS).patterns == counts).all()


def test_raw_mib_of_four_chips_is_put_together(tmp_path: Path) -> None:
    chips = np.arange(1, 5)[:, None, None] * 10 + np.zeros((4, 16, 16), dtype=np.uint8)
    chips[:, 0, 0] = [1, 2, 3, 4]
    strip = np.concatenate(list(chips), axis=1).astype(np.uint8)
    write_mib(tmp_path / "scan.mib", [turned_words(strip.tobytes())] * 6, 64, 16, "R64", layout="2x2", depth=6)
    pattern = read(tmp_path / "scan.mib", SCAN, **NUMBERS).patterns[5]
    assert pattern.shape == (32, 32)
    assert pattern[0, [0, 16]].tolist() == [4, 3], "upper left is the last chip of the strip"
    assert pattern[31, [15, 31]].tolist() == [2, 1], "the lower ones are turned by half a turn"
    assert pattern[8, [8, 24]].tolist() == [40, 30]


def test_hdr_file_tells_how_a_mib_was_scanned(tmp_path: Path) -> None:
    write_mib(tmp_path / "scan.mib", [c.tobytes() for c in pixels("u1")], 64, 16, "U08")
    hdr = "HDR,\t\r\nFrames in Acquisition (Number):\t6\r\nFrames per Trigger (Number):\t3\r\nEnd\t\r\n"
    (tmp_path / "scan.hdr").write_bytes(hdr.encode())
    assert read(tmp_path / "scan.mib", **NUMBERS).scan_shape == (2, 3)
    (tmp_path / "scan.hdr").write_bytes(b"HDR,\t\r\nScanX:\t2\r\nScanY:\t3\r\nEnd\t\r\n")
    assert read(tmp_path / "scan.mib", **NUMBERS).scan_shape == (3, 2)


def write_series(folder: Path, counts: NDArray[Any], *, missing: int | None = None) -> Path:
    """Three files of two frames each; the last frames come in the file that is named first. Returns the path of one."""
    for name, first in (("scan_2.mib", 2), ("scan_10.mib", 0), ("scan_1.mib", 4)):
        frames = (mib_header(first + i + 1, 64, 16, "U08") + counts[first + i].tobytes() for i in (0, 1))
        if first != missing:
            (folder / name).write_bytes(b"".join(frames))
    return folder / "scan_10.mib"


@pytest.mark.parametrize("told", ["hdr", "shape"])
def test_a_scan_in_several_mib_files_is_put_together_in_the_order_of_its_frames(tmp_path: Path, told: str) -> None:
    counts = pixels("u1")
    path = write_series(tmp_path, counts)
    (tmp_path / "other_1.mib").write_bytes(b"no part of it")
    if told == "hdr":
        text = "HDR,\r\nFrames in Acquisition (Number):\t6\r\nFrames per Trigger (Number):\t3\r\nEnd\t"
        (tmp_path / "scan_.hdr").write_text(text)
    file = read(path, SCAN if told == "shape" else RecordingOptions(), **NUMBERS)
    assert (file.patterns == counts).all()
    assert file.scan_shape == (2, 3)


def test_one_file_of_a_mib_series_is_read_alone_where_it_is_a_scan_of_its_own(tmp_path: Path) -> None:
    counts = pixels("u1")
    path = write_series(tmp_path, counts)
    with pytest.raises(
        BadInputError, match=r"2 other files of its series lie beside it; give the --scan-shape of this file \(2"
    ):
        read(path, **NUMBERS)
    alone = read(path, RecordingOptions(scan_shape=(1, 2)), **NUMBERS)
    assert (alone.patterns == counts[:2]).all()
    path.with_suffix(".hdr").write_text("HDR,\r\nScanX:\t2\r\nScanY:\t1\r\nEnd\t")
    assert read(path, **NUMBERS).scan_shape == (1, 2)


def test_a_mib_series_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path, pixels("u1"), missing=4)
    with pytest.raises(
        BadInputError, match="has with 1 other file of its series beside it 4 frames, its scan 6; copy all"
    ):
        read(path, SCAN, **NUMBERS)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"MPX,0000000769", SCAN, r"starts with b'MPX,' instead of b'MQ1,'"),
        (b"MQ1,000001,no", SCAN, r"header that cannot be understood"),
        (mib_header(1, 0, 16, "U08"), SCAN, r"impossible sizes: 384 bytes long, 0 × 16 pixels"),
        (
            b"MQ1,00000,00384,01,0016," + 90 * b"5" + b",R64,   1x1,0001,MQ1A,28Z,,24,",
            SCAN,
            r"impossible sizes: 384 bytes long, 16 × 555555555555 pixels",
        ),
        (
            b"MQ1,00000,00084,01,0001,0006,R64,  1x1,01,MQ1A,28Z,,24,".ljust(84 + 24, b" "),
            SCAN,
            r"raw frames \(R64\) are words of 64 bits; rows of 1 pixels of 24 bits do not fill them",
        ),
        (mib_header(1, 64, 16, "U01"), SCAN, r"type U01 are not supported; legal: U08, U16, U32, R64"),
        (mib_header(1, 64, 16, "R64", depth=7), SCAN, r"it says 7, legal: 1, 6, 12, 24"),
        (mib_header(1, 64, 16, "R64", layout="Nx1"), SCAN, r"Nx1 assembly are not supported; legal: 1x1, 2x2"),
        (mib_header(1, 4, 4, "U08") + bytes(15), SCAN, r"is truncated: 399 bytes are 0 frames of 400 bytes and 399"),
        (
            (mib_header(1, 4, 4, "U08") + bytes(16)) * 4,
            RecordingOptions(),
            r"4 patterns in a row.*give --scan-shape 2,2",
        ),
        ((mib_header(1, 4, 4, "U08") + bytes(16)) * 3, SCAN, r"holds 3 patterns, but a scan of 2 × 3 has 6"),
        (
            (mib_header(1, 4, 4, "U08") + bytes(16)) * 6,
            RecordingOptions(dtype="u1"),
            r"states its dtype itself; leave --dtype out",
        ),
        ((mib_header(1, 4, 4, "U08") + bytes(16)) * 6, SCAN, r"holds no counts"),
    ],
)
def test_unfit_mib_files_are_refused(tmp_path: Path, content: bytes, options: RecordingOptions, message: str) -> None:
    (tmp_path / "scan.mib").write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        read(tmp_path / "scan.mib", options, **NUMBERS)


def merlin_header(number: int, shape: tuple[int, int], kind: str, layout: str, depth: int, exposure: float) -> bytes:
    text = (
        f"MQ1,{number:06d},00384,04,{shape[1]:04d},{shape[0]:04d},{kind},   {layout},0F,2024-05-18 16:51:49.971626,{exposure},"
        f"0,0,0,3RX,175,511,MQ1A,2024-05-18T14:51:49.971626178Z,555000ns,{depth},"
    )
    return text.encode("ascii").ljust(384)


def turned_image(pixels: NDArray[Any]) -> bytes:
    """Pixels as Medipix sends them: 64-bit words, most significant byte first, of little-endian numbers."""
    frame = pixels.astype("<u2").tobytes()
    return b"".join(frame[i : i + 8][::-1] for i in range(0, len(frame), 8))


@pytest.mark.parametrize("layout", ["1x1", "2x2"])
def test_a_raw_merlin_file_of_24_bits_whose_width_counts_both_images(tmp_path: Path, layout: str) -> None:
    counts = np.random.default_rng(0).integers(0, 2**24, (6, 32, 32))
    frames = []
    for i, pattern in enumerate(counts):
        strip = pattern
        if layout == "2x2":  # four chips in a row; those of the lower half turned
            (upper_left, upper_right), (lower_left, lower_right) = (
                np.split(half, 2, axis=1) for half in np.split(pattern, 2)
            )
            strip = np.hstack([lower_right[::-1, ::-1], lower_left[::-1, ::-1], upper_right, upper_left])
        header = merlin_header(i + 1, (strip.shape[0], 2 * strip.shape[1]), "R64", layout, 24, 1e-3)
        frames.append(header + turned_image(strip >> 12) + turned_image(strip & 4095))
    (tmp_path / "scan.mib").write_bytes(b"".join(frames))
    recording = read_recording(tmp_path / "scan.mib", RecordingOptions(scan_shape=(2, 3)))
    assert (recording.patterns.reshape(6, 32, 32) == counts).all()


@pytest.mark.parametrize("told", ["ScanX", "--scan-shape", "frames per trigger and --scan-shape"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_merlin_frames_of_the_flyback_are_left_out(
    tmp_path: Path, counts: NDArray[np.uint16], told: str, where: str
) -> None:
    extra = 2 if told.startswith("frames") else 1
    lines = np.full((14, 20 + extra, 16, 16), 60000, np.uint16)
    kept = slice(extra, None) if where == "first" else slice(None, 20)
    lines[:, kept] = counts
    frames = []
    for number, (pattern, column) in enumerate((p, j) for line in lines for j, p in enumerate(line)):
        flyback = column < extra if where == "first" else column >= 20
        exposure = 0.01 if flyback else 0.001
        frames.append(merlin_header(number + 1, (16, 16), "U16", "1x1", 12, exposure) + pattern.astype(">u2").tobytes())
    (tmp_path / "scan.mib").write_bytes(b"".join(frames))
    if told != "--scan-shape":
        scanned = "ScanX:\t20\r\nScanY:\t14\r\n" if told == "ScanX" else ""
        trigger = f"Frames per Trigger (Number):\t{20 + extra}\r\n"
        (tmp_path / "scan.hdr").write_text(f"HDR,\r\n{trigger}{scanned}End\t")
    options = RecordingOptions() if told == "ScanX" else RecordingOptions(scan_shape=(14, 20))
    recording = read_recording(tmp_path / "scan.mib", options)
    assert (recording.patterns == counts).all()
    assert (counts_of(recording).patterns == counts.reshape(-1, 16, 16)).all()
    note = f"each line has {20 + extra} frames for 20 positions: its {where} {extra} (fly-back) left out"
    assert recording.notes == (note,)
