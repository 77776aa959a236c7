"""What a person meets who has a file of another program: how it is read, or in one sentence why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray
from recorded_files import write_array

from instrument.errors import BadInputError
from instrument.recordings import RecordingOptions, counts_of, read_recording

SCAN = (14, 20)
NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "step": 1.5, "angular_pixel": 2.0}


# Stacks without scan axes


def test_patterns_in_a_row_ask_for_the_scan_shape_and_take_it(tmp_path: Path, row: NDArray[np.uint16]) -> None:
    path = write_array(tmp_path / "dp.h5", "dp", row)
    with pytest.raises(BadInputError, match=r"280 patterns in a row, not their scan; give --scan-shape ROWS,COLUMNS"):
        read_recording(path)
    for shape in (SCAN, SCAN[::-1]):
        recording = read_recording(path, RecordingOptions(scan_shape=shape))
        assert (recording.patterns == row.reshape(*shape, 16, 16)).all()
        assert isinstance(recording.patterns, np.memmap)
        assert not recording.notes


@pytest.mark.parametrize("name", ["dp.h5", "dp.npy", "dp.raw"])
def test_a_scan_that_was_stopped_in_its_last_line_keeps_the_complete_ones(
    tmp_path: Path, row: NDArray[np.uint16], name: str
) -> None:
    path, options = tmp_path / name, RecordingOptions(scan_shape=SCAN)
    if name == "dp.h5":
        write_array(path, "dp", row[:-7])
    elif name == "dp.npy":
        np.save(path, row[:-7])
    else:
        path.write_bytes(row[:-7].tobytes())
        options = RecordingOptions(scan_shape=SCAN, detector_shape=(16, 16), dtype="uint16")
    recording = read_recording(path, options)
    assert (recording.patterns == row[:260].reshape(13, 20, 16, 16)).all()
    assert recording.notes == ("the last line has 13 of 20 positions and is left out",)


def write_master(folder: Path, row: NDArray[Any], *, links: bool = True, **specific: Any) -> Path:
    path = folder / "night scan_master.h5"
    with h5py.File(path, "w") as master:
        for i, part in enumerate(np.array_split(row, 3), start=1):
            write_array(folder / f"night scan_data_{i:06d}.h5", "entry/data/data", part)
            if links:
                link = h5py.ExternalLink(f"night scan_data_{i:06d}.h5", "entry/data/data")
                master[f"entry/data/data_{i:06d}"] = link
        for name, value in specific.items():
            master[f"entry/instrument/detector/detectorSpecific/{name}"] = value
    return path


@pytest.mark.parametrize("links", [True, False])
def test_a_dectris_master_brings_its_data_files_and_its_scan(
    tmp_path: Path, row: NDArray[np.uint16], links: bool
) -> None:
    path = write_master(tmp_path, row, links=links, ntrigger=14, nimages=20)
    recording = read_recording(path)
    assert (recording.patterns == row.reshape(*SCAN, 16, 16)).all()
    assert recording.notes == ("taken for a scan of 14 × 20; give --scan-shape if it was another",)
    assert read_recording(path, RecordingOptions(scan_shape=(20, 14))).patterns.shape[:2] == (20, 14)


def test_a_dectris_master_of_one_trigger_a_position_is_taken_for_a_square(
    tmp_path: Path, row: NDArray[np.uint16]
) -> None:
    assert read_recording(write_master(tmp_path, row[:256], ntrigger=256, nimages=1)).patterns.shape[:2] == (16, 16)
    with pytest.raises(BadInputError, match=r"280 patterns in a row, not their scan; give --scan-shape ROWS,COLUMNS"):
        read_recording(write_master(tmp_path, row, ntrigger=280, nimages=1))


def test_a_dectris_master_names_dead_pixels_and_the_step_lies_beside_it(
    tmp_path: Path, row: NDArray[np.uint16]
) -> None:
    marked = row.astype(np.uint32)
    marked[:, 3, 5] = 2**32 - 1
    dead = np.zeros((16, 16), np.uint32)
    dead[0, 1] = 2
    path = write_master(tmp_path, marked, pixel_mask=dead)
    with h5py.File(tmp_path / "night scan.h5", "w") as file:
        file.create_group("STEM Metadata").attrs["Pixel Size"] = [0.15, 0.15]
    recording = read_recording(path, RecordingOptions(scan_shape=SCAN))
    assert recording.numbers["step"].value == pytest.approx(1.5)
    assert recording.numbers["step"].source == "Pixel Size in night scan.h5"
    found = counts_of(recording)
    assert found.mask is not None
    assert np.argwhere(~found.mask).tolist() == [[0, 1], [3, 5]]
    assert (found.patterns == np.where(found.mask, row, 0)).all()
    assert "1 pixels do not count: the master's pixel mask" in recording.notes
    assert "1 pixels hold the mark of a dead pixel in every pattern: they do not count" in found.notes


def test_a_dectris_master_whose_data_files_were_left_behind(tmp_path: Path, row: NDArray[np.uint16]) -> None:
    path = write_master(tmp_path, row)
    (tmp_path / "night scan_data_000002.h5").unlink()
    with pytest.raises(BadInputError, match=r"data file night scan_data_000002.h5 cannot be opened; copy all files"):
        read_recording(path)


@pytest.mark.parametrize(
    "name", ["a.dm4", "a.tif", "a.blo", "a.mat", "a.hdr", "a.mrc", "a.npz", "a.tvips", "a.zip", "a.xml", "a"]
)
@pytest.mark.parametrize("options", [RecordingOptions(), RecordingOptions(scan_shape=SCAN, numbers=NUMBERS)])
def test_a_foreign_format_gets_one_sentence_with_what_is_read(
    tmp_path: Path, name: str, options: RecordingOptions
) -> None:
    (tmp_path / name).write_bytes(b"something of another program" * 100)
    with pytest.raises(
        BadInputError,
        match=r"not read; read are .*HDF5.*Merlin.*\.npy.*; convert it, e\.g\. with RosettaSciIO, to .npy or .hspy$",
    ) as caught:
        read_recording(tmp_path / name, options)
    assert "\n" not in str(caught.value)


# Compressed, locked and unreadable HDF5


def test_an_hdf5_file_that_another_program_writes_is_said_to_be_open_there(
    tmp_path: Path, counts: NDArray[np.uint16]
) -> None:
    path = write_array(tmp_path / "a.h5", "data", counts)
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(
            BadInputError, match="is open for writing in another program; close it there, or copy the file"
        ):
            read_recording(path)
    assert (read_recording(path).patterns == counts).all()


def test_an_hdf5_file_whose_writer_was_killed_says_how_to_clear_it(tmp_path: Path) -> None:
    script = (
        "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest')\n"
        "f['a'] = [1]; f.swmr_mode = True; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.h5")], check=True)
    with pytest.raises(BadInputError, match=r"is marked as open for writing.* or run h5clear -s"):
        read_recording(tmp_path / "a.h5")


def test_an_hdf5_file_that_may_not_be_read_is_not_called_another_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: NDArray[np.uint16]
) -> None:
    def refused(*_: Any, **__: Any) -> None:  # what an ordinary user meets, and root does not
        raise PermissionError(13, "Unable to synchronously open file (unable to open file: Permission denied)")

    path = write_array(tmp_path / "a.h5", "data", counts)
    monkeypatch.setattr(h5py, "File", refused)
    with pytest.raises(BadInputError, match=r"a\.h5: may not be read by you; change its permissions, or copy it"):
        read_recording(path)


def test_a_compression_that_is_not_installed_is_not_called_damage(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=counts, chunks=(1, 20, 16, 16), **hdf5plugin.Bitshuffle(cname="lz4"))
    script = (
        "import sys, types; sys.modules['hdf5plugin'] = types.ModuleType('hdf5plugin')\n"
        "from pathlib import Path; from instrument.recordings import read_recording\n"
        "read_recording(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.h5")], capture_output=True, text=True)
    assert "/data is compressed in a way that is not known here; save it with another" in done.stderr


# Raw bytes


@pytest.mark.parametrize("trailing", [True, False])
def test_raw_frames_with_headers_and_gaps(tmp_path: Path, row: NDArray[np.uint16], trailing: bool) -> None:
    frames = [b"h" * 5 + pattern.astype(">u2").tobytes() + b"gap" for pattern in row]
    content = b"file" + b"".join(frames)
    (tmp_path / "scan.bin").write_bytes(content if trailing else content[:-3])
    layout: dict[str, Any] = {"scan_shape": SCAN, "detector_shape": (16, 16), "dtype": ">u2", "offset": 4}
    options = RecordingOptions(**layout, frame_header=5, frame_gap=3)
    recording = read_recording(tmp_path / "scan.bin", options)
    assert isinstance(recording.patterns, np.memmap)
    assert (counts_of(recording).patterns == row).all()
    with pytest.raises(BadInputError, match=r"after 4 bytes, 5 bytes before each take .* of 517 bytes\)"):
        read_recording(tmp_path / "scan.bin", RecordingOptions(**layout, frame_header=5))


@pytest.mark.parametrize("dtype", ["int16", ">i4", "float32"])
def test_a_mark_of_minus_one_is_a_dead_pixel_and_no_huge_count(
    tmp_path: Path, row: NDArray[np.uint16], dtype: str
) -> None:
    marked = row.astype(dtype)
    marked[:, 2, 7] = -1
    np.save(tmp_path / "a.npy", marked.reshape(*SCAN, 16, 16))
    found = counts_of(read_recording(tmp_path / "a.npy"))
    assert found.mask is not None
    assert np.argwhere(~found.mask).tolist() == [[2, 7]]
    assert (found.patterns[:, 2, 7] == 0).all()
    assert found.patterns.sum() == row.sum() - row[:, 2, 7].sum()
    assert found.notes == ("1 pixels hold the mark of a dead pixel in every pattern: they do not count",)


@pytest.mark.parametrize(
    ("dtype", "mark"), [("float32", np.nan), ("float64", 2**32 - 1), ("uint16", 2**16 - 1), ("<u4", 2**32 - 1)]
)
def test_other_marks_of_dead_pixels(tmp_path: Path, row: NDArray[np.uint16], dtype: str, mark: float) -> None:
    marked = row.astype(dtype)
    marked[:, 2, 7] = mark
    np.save(tmp_path / "a.npy", marked.reshape(*SCAN, 16, 16))
    found = counts_of(read_recording(tmp_path / "a.npy"))
    assert found.mask is not None
    assert np.argwhere(~found.mask).tolist() == [[2, 7]]
    assert (found.patterns[:, ~found.mask] == 0).all()
    assert (found.mean[found.mask] == row.mean(axis=0)[found.mask]).all()


@pytest.mark.parametrize(
    ("dtype", "hint"), [("float32", "they become whole electrons"), ("int16", "what is below zero becomes none")]
)
def test_a_signal_after_dark_subtraction_says_what_becomes_of_it(
    tmp_path: Path, row: NDArray[np.uint16], dtype: str, hint: str
) -> None:
    signal = (10 * row + np.random.default_rng(1).normal(0, 0.8, row.shape)).astype(dtype)
    signal[0, 0, 0] = -3
    np.save(tmp_path / "a.npy", signal.reshape(*SCAN, 16, 16))
    with pytest.raises(
        BadInputError, match=rf"negative counts \(smallest -.*\); give --counts-per-electron, and {hint}"
    ):
        counts_of(read_recording(tmp_path / "a.npy"))
    found = counts_of(read_recording(tmp_path / "a.npy", RecordingOptions(numbers={"counts_per_electron": 10.0})))
    assert (found.patterns.ravel()[1:] == row.ravel()[1:]).all()
    assert found.patterns[0, 0, 0] == 0
    assert found.notes[0].startswith("rounded to electrons of 10 counts; ")
    assert found.notes[0].endswith(" % of the pixels are below zero and become none")
