"""Files of other programs, written here byte by byte as their formats' documentation says."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from recorded_files import NUMBERS, SCAN, npy_of, pixels, read

from instrument.errors import BadInputError
from instrument.memory import allocate
from instrument.recordings import RecordingOptions, parse_shape


def raw(
    scan: tuple[int, int], detector: tuple[int, int] | None, dtype: str | None = None, offset: int | None = None
) -> RecordingOptions:
    return RecordingOptions(scan_shape=scan, detector_shape=detector, dtype=dtype, offset=offset)


def properties(**changes: Any) -> dict[str, Any]:
    """What Nion Swift keeps of a 4D-STEM scan at 60 kV, 35 mrad, 20 nm of overfocus."""
    scan, angle = {"offset": -1.0, "scale": 0.05, "units": "nm"}, {"offset": -0.02, "scale": 0.0025, "units": "rad"}
    return {
        "is_sequence": False,
        "collection_dimension_count": 2,
        "datum_dimension_count": 2,
        "dimensional_calibrations": [scan, scan, angle, angle],
        "metadata": {"instrument": {"high_tension": 60000.0, "convergence_angle": 0.035, "defocus": 20e-9}},
        **changes,
    }


def check_nion(path: Path, counts: NDArray[Any]) -> None:
    file = read(path)
    assert (file.patterns == counts.reshape(6, 16, 64)).all()
    assert file.numbers == pytest.approx(
        {"voltage": 60e3, "semiangle": 35.0, "angular_pixel": 2.5, "step": 0.5, "defocus": -200}
    )


@pytest.mark.parametrize("name", ["scan.h5", "scan.nhdf"])
def test_nion_hdf5_brings_its_numbers_in_si_units(tmp_path: Path, name: str) -> None:
    counts = pixels("u2").reshape(2, 3, 16, 64)
    with h5py.File(tmp_path / name, "w") as file:
        data = file.create_dataset("data" if name == "scan.h5" else "data/0", data=counts)
        data.attrs["properties"] = json.dumps(properties())
    check_nion(tmp_path / name, counts)
    assert read(tmp_path / name, voltage=80e3).numbers["voltage"] == 80e3


def zip_of(entries: dict[str, bytes]) -> bytes:
    """A stored zip archive as Nion Swift writes it: local headers, directory, end record, nothing else."""
    local, directory = b"", b""
    for name, content in entries.items():
        common = struct.pack("<4H3I2H", 0, 0, 0, 0x5A21, zlib.crc32(content), len(content), len(content), len(name), 0)
        directory += struct.pack("<I2H", 0x02014B50, 10, 10) + common + struct.pack("<3H2I", 0, 0, 0, 0, len(local))
        directory += name.encode()
        local += struct.pack("<IH", 0x04034B50, 10) + common + name.encode() + content
    end = struct.pack("<I4H2IH", 0x06054B50, 0, 0, len(entries), len(entries), len(directory), len(local), 0)
    return local + directory + end


@pytest.mark.parametrize("axes", ["dimensional_calibrations", "spatial_calibrations"])
def test_ndata_is_mapped_from_within_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: str) -> None:
    counts = pixels("u2").reshape(2, 3, 16, 64)
    stated = properties()
    stated[axes] = stated.pop("dimensional_calibrations")
    archive = {"data.npy": npy_of(counts), "metadata.json": json.dumps(stated).encode()}
    (tmp_path / "scan.ndata1").write_bytes(zip_of(archive))
    check_nion(tmp_path / "scan.ndata1", counts)
    assert isinstance(read(tmp_path / "scan.ndata1").patterns, np.memmap)
    with zipfile.ZipFile(tmp_path / "packed.ndata", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in archive.items():
            packed.writestr(name, content)
    check_nion(tmp_path / "packed.ndata", counts)
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 1)
    check_nion(tmp_path / "packed.ndata", counts)
    assert isinstance(read(tmp_path / "packed.ndata").patterns, np.memmap)


def calibrated(*axes: tuple[float, str]) -> dict[str, Any]:
    return properties(dimensional_calibrations=[{"scale": scale, "units": units} for scale, units in axes])


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (properties(is_sequence=True), "holds a sequence of 2-dimensional data at each point of a 2-dimensional scan"),
        (
            properties(datum_dimension_count=1, collection_dimension_count=3),
            "holds 1-dimensional data at each point of a 3",
        ),
        (calibrated((0.05, "nm"), (0.1, "nm"), (1, "mrad"), (1, "mrad")), r"different step \(0.5 and 1\)"),
        (calibrated((0.05, "nm"), (0.05, "nm"), (1, "mrad"), (2, "mrad")), r"different angular_pixel \(1 and 2\)"),
        (calibrated((1, "s"), (1, "s"), (1, "mrad"), (1, "mrad")), r"does not say step; give --step"),
        (properties(metadata={}), r"does not say voltage, semiangle; give --voltage, --semiangle"),
        (properties(metadata={"instrument": {"high_tension": True}}), r"does not say voltage, semiangle"),
        ([1, 2], r"properties are no JSON object"),
    ],
)
def test_unfit_nion_files_are_refused(tmp_path: Path, stated: Any, message: str) -> None:
    archive = {"data.npy": npy_of(pixels("u2").reshape(2, 3, 16, 64)), "metadata.json": json.dumps(stated).encode()}
    (tmp_path / "scan.ndata").write_bytes(zip_of(archive))
    with pytest.raises(BadInputError, match=message):
        read(tmp_path / "scan.ndata")


def test_damaged_ndata_is_refused(tmp_path: Path) -> None:
    array = npy_of(pixels("u2").reshape(2, 3, 16, 64))
    whole = zip_of({"data.npy": array, "metadata.json": b"{}"})
    cases: dict[str, tuple[bytes, str]] = {
        "truncated": (whole[:-200], "is damaged or truncated"),
        "no zip": (b"hello", "is damaged or truncated"),
        "no array": (zip_of({"metadata.json": b"{}"}), "archive without data.npy"),
        "short array": (zip_of({"data.npy": array[:40], "metadata.json": b"{}"}), "is damaged or truncated"),
        "no json": (zip_of({"data.npy": array, "metadata.json": b"{"}), "properties are not JSON"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.ndata"
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=message):
            read(path, **NUMBERS)


def empad_frames(n: int) -> NDArray[np.float32]:
    """(n, 130, 128) as the EMPAD writes them: its last two rows are no pixels."""
    frames = np.random.default_rng(2).poisson(3.0, (n, 130, 128)).astype("<f4")
    frames[:, 128:] = 1e9
    return frames


def test_empad_raw_names_its_scan_and_keeps_its_pixels(tmp_path: Path) -> None:
    frames = empad_frames(6)
    for name, options in (("scan_x3_y2.raw", RecordingOptions()), ("other.raw", SCAN)):
        (tmp_path / name).write_bytes(frames.tobytes())
        file = read(tmp_path / name, options, **NUMBERS)
        assert file.scan_shape == (2, 3)
        assert (file.patterns == frames[:, :128]).all()
        assert isinstance(file.patterns, np.memmap)


def test_analogue_signal_becomes_whole_electrons(tmp_path: Path) -> None:
    frames = empad_frames(6)
    signal = frames * 150 + np.random.default_rng(3).normal(0, 10, frames.shape).astype("<f4")
    (tmp_path / "scan_x3_y2.raw").write_bytes(signal.tobytes())
    with pytest.raises(BadInputError, match=r"negative counts \(smallest -.*give --counts-per-electron"):
        read(tmp_path / "scan_x3_y2.raw", **NUMBERS)
    data = read(tmp_path / "scan_x3_y2.raw", **NUMBERS, counts_per_electron=150.0)
    assert data.patterns.dtype == np.uint16
    assert (data.patterns == frames[:, :128]).all()
    with pytest.raises(BadInputError, match=r"electrons in a pixel are not possible"):
        read(tmp_path / "scan_x3_y2.raw", **NUMBERS, counts_per_electron=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32"])
def test_raw_bytes_are_what_the_options_say(tmp_path: Path, dtype: str) -> None:
    counts = (np.arange(6 * 4 * 5) % 200).reshape(6, 4, 5).astype(dtype)
    (tmp_path / "scan.bin").write_bytes(b"header" + counts.tobytes())
    options = RecordingOptions(scan_shape=(2, 3), detector_shape=(4, 5), dtype=dtype, offset=6)
    assert (read(tmp_path / "scan.bin", options, **NUMBERS).patterns == counts).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RecordingOptions(), r"how many positions were scanned; give --scan-shape"),
        (SCAN, r"has 240 bytes, but 2 × 3 × 130 × 128 of float32 after 0 bytes take 399360; it is truncated"),
        (raw((2, 3), (4, 5)), r"does not say the type of its counts; give --dtype"),
        (raw((2, 3), None, "uint8"), r"how large its patterns are; give --detector-shape"),
        (raw((2, 3), (4, 5), "uint8"), r"take 120; it is longer, or other .* \(12 patterns of 20 bytes\)"),
        (raw((2, 3), (4, 5), "counts"), r"--dtype counts is not a type of numbers"),
        (raw((2, 3), (4, 5), "complex64"), r"--dtype complex64 cannot hold counts"),
        (raw((2, 3), (4, 5), "uint16", 2), r"take 242; it is truncated"),
        (raw((2, 3), (4, 5), "int16"), r"holds negative counts \(smallest -2\)"),
        (raw((2, 3), (2, 5), "float32"), r"holds values that are not numbers"),
    ],
)
def test_unfit_raw_files_are_refused(tmp_path: Path, options: RecordingOptions, message: str) -> None:
    counts = np.ones((6, 4, 5), dtype="<i2")
    counts[3, 2, 1] = -2
    if options.dtype == "float32":
        counts[0, 0, :2] = -1  # all bits set: not a number
    (tmp_path / "scan.raw").write_bytes(counts.tobytes())
    with pytest.raises(BadInputError, match=message):
        read(tmp_path / "scan.raw", options, **NUMBERS)


def test_npy_is_mapped_and_a_row_of_patterns_divided(tmp_path: Path) -> None:
    counts = pixels("u2")
    (tmp_path / "row.npy").write_bytes(npy_of(counts))
    (tmp_path / "short.npy").write_bytes(npy_of(counts)[:-10])
    file = read(tmp_path / "row.npy", SCAN, **NUMBERS)
    assert isinstance(file.patterns, np.memmap)
    assert file.scan_shape == (2, 3)
    with pytest.raises(BadInputError, match="to its end"):
        read(tmp_path / "short.npy", SCAN, **NUMBERS)


def test_hdf5_needs_no_layout(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = pixels("u2").reshape(2, 3, 16, 64)
    with pytest.raises(BadInputError, match="states its scan shape itself; leave --scan-shape out"):
        read(tmp_path / "scan.h5", SCAN, **NUMBERS)


def write_hdf5(path: Path, counts: NDArray[Any], **storage: Any) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("data", data=counts, **storage)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "f4"])
def test_hdf5_without_chunks_is_mapped(tmp_path: Path, dtype: str) -> None:
    counts = pixels("u1").reshape(2, 3, 16, 64).astype(dtype)
    write_hdf5(tmp_path / "scan.h5", counts)
    patterns = read(tmp_path / "scan.h5", **NUMBERS).patterns
    assert isinstance(patterns, np.memmap)
    assert (patterns.reshape(counts.shape) == counts).all()


@pytest.mark.parametrize("free", [10**12, 1])
def test_packed_hdf5_is_read_and_kept_on_disk_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr("instrument.memory.free_memory", lambda: free)
    counts = pixels("u2").reshape(2, 3, 16, 64)
    write_hdf5(tmp_path / "scan.h5", counts, chunks=(2, 2, 16, 64), compression="gzip")
    patterns = read(tmp_path / "scan.h5", **NUMBERS).patterns
    assert isinstance(patterns, np.memmap) == (free == 1)
    assert (patterns.reshape(counts.shape) == counts).all()


def test_numbers_that_only_hdf5_can_convert_are_read(tmp_path: Path) -> None:
    """12 bits in words of 16, a data set that was never written, a small one inside its own header."""
    counts = pixels("u2").reshape(2, 3, 16, 64)
    kind, space = h5py.h5t.STD_U16LE.copy(), h5py.h5s.create_simple(counts.shape)
    kind.set_precision(12)
    header = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    header.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "scan.h5", "w", userblock_size=512) as file:
        h5py.Dataset(h5py.h5d.create(file.id, b"twelve", kind, space))[...] = counts
        h5py.Dataset(h5py.h5d.create(file.id, b"small", h5py.h5t.STD_U16LE, space, header))[...] = counts
        file.create_dataset("never", counts.shape, "u2")
    for name in ("twelve", "small"):
        data = read(tmp_path / "scan.h5", RecordingOptions(dataset=name), **NUMBERS)
        assert (data.patterns.reshape(counts.shape) == counts).all()
    with pytest.raises(BadInputError, match="holds no counts"):
        read(tmp_path / "scan.h5", RecordingOptions(dataset="never"), **NUMBERS)


def test_counts_that_neither_memory_nor_disk_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 8 * 10**9)
    with pytest.raises(BadInputError, match=r"take 1e\+03 GB, more than half of the free memory \(8 GB\).*set TMPDIR"):
        allocate((10**6, 10**6), "u1")


@pytest.mark.parametrize(
    ("text", "shape"), [(None, None), ("256,128", (256, 128)), ("256x128", (256, 128)), (" 2, 3", (2, 3))]
)
def test_shapes_on_the_command_line(text: str | None, shape: tuple[int, int] | None) -> None:
    assert parse_shape(text, "--scan-shape") == shape


@pytest.mark.parametrize("text", ["", "5", "2,3,4", "0,5", "-1,5", "2.5,1", "a,b"])
def test_impossible_shapes_are_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=r"--scan-shape .* legal: two positive whole numbers, ROWS,COLUMNS"):
        parse_shape(text, "--scan-shape")


def test_reading_a_large_file_takes_no_memory_of_its_size(tmp_path: Path, peak_memory: Callable[[str], int]) -> None:
    """A sparse file of half a GiB, of which a sweep reads every byte, and 128 MiB that HDF5 has packed."""
    path, shape = tmp_path / "scan.bin", (256, 256, 64, 64)
    with path.open("wb") as file:
        file.write(np.full(64 * 64, 7, dtype="<u2").tobytes())
        file.truncate(2**29)
    for name, rows, storage in (("whole", 256, {}), ("packed", 64, {"chunks": (1, 16, 64, 64), "compression": "gzip"})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("data", (rows, *shape[1:]), "u2", **storage)[0] = 7
    script = f"""
from pathlib import Path
from instrument import memory
from instrument.recordings import RecordingOptions, counts_of, read_recording
memory.free_memory = lambda: 2**20
folder = Path({str(tmp_path)!r})
raw = RecordingOptions(scan_shape=(256, 256), detector_shape=(64, 64), dtype="uint16")
files = [("scan.bin", raw), ("whole.h5", RecordingOptions()), ("packed.h5", RecordingOptions())]
kept = [counts_of(read_recording(folder / name, options)) for name, options in files]
assert [len(counts.patterns) for counts in kept] == [65536, 65536, 16384]
"""
    assert peak_memory(script) < 100 * 2**20


@pytest.fixture
def peak_memory() -> Callable[[str], int]:
    """Memory that Python and NumPy took at most while a script ran, bytes; mapped file pages do not count."""
    import subprocess
    import sys

    def run(script: str) -> int:
        whole = f"import tracemalloc\ntracemalloc.start()\n{script}\nprint(tracemalloc.get_traced_memory()[1])"
        done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
        return int(done.stdout)

    return run
