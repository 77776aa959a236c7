"""What a person meets who has a file of another program: how it is read, or in one sentence why not."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray

from instrument import optics
from instrument.errors import BadInputError
from instrument.recordings import RecordingOptions, counts_of, read_recording

SCAN = (14, 20)
NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "step": 1.5, "angular_pixel": 2.0}


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint16]:
    """(14, 20, 16, 16)."""
    return np.random.default_rng(0).poisson(20, (*SCAN, 16, 16)).astype(np.uint16)


@pytest.fixture
def row(counts: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """(280, 16, 16)."""
    return counts.reshape(-1, 16, 16)


def write(path: Path, name: str, data: NDArray[Any], attributes: dict[str, Any] | None = None) -> Path:
    with h5py.File(path, "w") as file:
        file[name] = data
        file.attrs.update(attributes or {})
    return path


# Stacks without scan axes


def test_patterns_in_a_row_ask_for_the_scan_shape_and_take_it(tmp_path: Path, row: NDArray[np.uint16]) -> None:
    path = write(tmp_path / "dp.h5", "dp", row)
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
        write(path, "dp", row[:-7])
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
            write(folder / f"night scan_data_{i:06d}.h5", "entry/data/data", part)
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


# Calibration in the file


def write_emd(path: Path, counts: NDArray[Any], *axes: tuple[float, Any]) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = counts
        for i, (spacing, units) in enumerate(axes):
            group[f"dim{i}"] = np.array([0.0, spacing])
            group[f"dim{i}"].attrs["units"] = units
    return path


@pytest.mark.parametrize("stated", ["in the file", "as an option"])
@pytest.mark.parametrize(
    ("per_angstrom", "units"), [(1, "A^-1"), (1, "1/A"), (1, "Å⁻¹"), (10, "nm^-1"), (10, "1/nm"), (1e10, "m^-1")]
)
def test_detector_axes_in_spatial_frequency_need_the_voltage_wherever_it_is_stated(
    tmp_path: Path, counts: NDArray[np.uint16], stated: str, per_angstrom: float, units: str
) -> None:
    frequency = 1.9e-3 / optics.wavelength(300e3) * per_angstrom
    path = write_emd(tmp_path / "a.emd", counts, (1.5, "A"), (1.5, "A"), (frequency, units), (frequency, units))
    options = RecordingOptions(numbers={"voltage": 300e3})
    if stated == "in the file":
        with h5py.File(path, "a") as file:
            file.attrs["voltage"] = 300e3
        options = RecordingOptions()
    numbers = read_recording(path, options).numbers
    assert numbers["angular_pixel"].value == pytest.approx(1.9)
    assert numbers["angular_pixel"].source == "axes of the file"
    assert "angular_pixel" not in read_recording(write_emd(path, counts, *[(1.5, "A")] * 2, *[(1, units)] * 2)).numbers


@pytest.mark.parametrize(
    ("step", "units"),
    [
        (1.5, "A"),
        (1.5, "Å"),
        (1.5, "angstroms"),
        (0.15, "nm"),
        (0.15, "[n_m]"),
        (1.5e-4, "um"),
        (1.5e-4, "µm"),
        (1.5e-10, "m"),
    ],
)
def test_scan_axes_in_any_length(tmp_path: Path, counts: NDArray[np.uint16], step: float, units: str) -> None:
    path = write_emd(tmp_path / "a.emd", counts, (step, units), (step, units), (0.002, "rad"), (0.002, "rad"))
    numbers = read_recording(path).require()
    assert (numbers["step"], numbers["angular_pixel"]) == pytest.approx((1.5, 2.0))


def test_axes_of_an_older_emd_are_counted_from_one(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file["4DSTEM_experiment/data/datacubes/datacube_0/data"] = counts
        for i, spacing in enumerate((1.5, 1.5, 2.0, 2.0), start=1):
            file[f"4DSTEM_experiment/data/datacubes/datacube_0/dim{i}"] = np.arange(SCAN[0]) * spacing
            file[f"4DSTEM_experiment/data/datacubes/datacube_0/dim{i}"].attrs["units"] = "A" if i < 3 else "mrad"
    numbers = read_recording(tmp_path / "a.emd").require()
    assert (numbers["step"], numbers["angular_pixel"]) == pytest.approx((1.5, 2.0))


def test_unequal_sampling_is_refused_in_every_format_unless_an_option_says_better(
    tmp_path: Path, counts: NDArray[np.uint16]
) -> None:
    mrad = (2.0, "mrad")
    for path, name in (
        (write_emd(tmp_path / "step.emd", counts, (1.5, "A"), (2.0, "A"), mrad, mrad), "step"),
        (write_emd(tmp_path / "pixel.emd", counts, (1.5, "A"), (1.5, "A"), mrad, (2.1, "mrad")), "angular_pixel"),
        (write(tmp_path / "plain.h5", "data", counts, {"scan_step_A": [1.5, 2.0]}), "step"),
    ):
        with pytest.raises(BadInputError, match=rf"its rows and columns have different {name} \("):
            read_recording(path)
        assert read_recording(path, RecordingOptions(numbers={name: 1.7})).numbers[name].value == 1.7


@pytest.mark.parametrize(
    "value", [np.array([80e3]), np.array([[80e3]]), np.float32(80e3), np.int64(80000), "80000", np.bytes_("80000")]
)
def test_an_attribute_of_one_element_is_a_number(tmp_path: Path, counts: NDArray[np.uint16], value: Any) -> None:
    path = write(tmp_path / "a.h5", "data", counts, {"voltage": value})
    assert read_recording(path).require()["voltage"] == 80e3


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, "eighty", np.bytes_(b"\xff\xfe"), [1.0, 2.0, 3.0], h5py.Empty("f8"), True, ["a", "b"], 1j]
)
def test_an_attribute_that_is_no_number_counts_as_not_stated_and_an_option_replaces_it(
    tmp_path: Path, counts: NDArray[np.uint16], value: Any
) -> None:
    names = ("voltage", "semiangle", "angular_pixel", "step", "defocus")
    path = write(tmp_path / "a.h5", "data", counts, dict.fromkeys(names, value))
    recording = read_recording(path)
    assert recording.notes == (f"not a number in the file, so not used: {', '.join(names)}",)
    with pytest.raises(
        BadInputError, match="does not say voltage, semiangle, step; give --voltage, --semiangle, --step"
    ):
        recording.require("voltage", "semiangle", "step")
    assert read_recording(path, RecordingOptions(numbers=NUMBERS)).require("voltage", "step") == NUMBERS


def write_ndata(path: Path, counts: NDArray[Any], axes: Any, metadata: Any) -> Path:
    array = io.BytesIO()
    np.save(array, counts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", array.getvalue())
        archive.writestr("metadata.json", json.dumps({"dimensional_calibrations": axes, "metadata": metadata}))
    return path


@pytest.mark.parametrize("scale", [None, "0.1 nm", [1, 2], float("nan"), {}, True, 0.0])
def test_a_swift_axis_without_a_scale_counts_as_not_calibrated(
    tmp_path: Path, counts: NDArray[np.uint16], scale: Any
) -> None:
    axes = [{"scale": scale, "units": units} for units in ("nm", "nm", "rad", "rad")]
    path = write_ndata(tmp_path / "a.ndata", counts, axes, {"instrument": {"high_tension": scale}})
    assert not read_recording(path).numbers
    assert read_recording(path, RecordingOptions(numbers=NUMBERS)).require("step") == NUMBERS


@pytest.mark.parametrize(
    "axes", [None, [], "none", [None] * 4, [1, 2, 3, 4], [{"units": None, "scale": 1}] * 4, {"a": 1}]
)
@pytest.mark.parametrize("metadata", [None, [], "none", {"instrument": None}, {"instrument": ["a"]}])
def test_swift_properties_of_another_form_count_as_not_stated(
    tmp_path: Path, counts: NDArray[np.uint16], axes: Any, metadata: Any
) -> None:
    assert not read_recording(write_ndata(tmp_path / "a.ndata", counts, axes, metadata)).numbers


def test_swift_axes_in_spatial_frequency_take_the_voltage_of_the_option(
    tmp_path: Path, counts: NDArray[np.uint16]
) -> None:
    frequency = {"scale": 1.9e-3 / optics.wavelength(60e3) * 10, "units": "1/nm"}
    scan = {"scale": 1.5e-4, "units": "um"}
    path = write_ndata(tmp_path / "a.ndata", counts, [scan, scan, frequency, frequency], {})
    numbers = read_recording(path, RecordingOptions(numbers={"voltage": 60e3})).require()
    assert numbers == pytest.approx({"voltage": 60e3, "step": 1.5, "angular_pixel": 1.9})


def test_every_number_says_where_it_came_from(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    mrad = (2.0, "mrad")
    path = write_emd(tmp_path / "a.emd", counts, (0.15, "nm"), (0.15, "nm"), mrad, mrad)
    with h5py.File(path, "a") as file:
        file.attrs.update({"accelerating_voltage_kV": 300.0, "semiangle_mrad": 17.0})
    recording = read_recording(path, RecordingOptions(numbers={"semiangle": 20.0, "defocus": -150.0}))
    assert recording.sources() == (
        "voltage 300000 eV (attribute accelerating_voltage_kV), semiangle 20 mrad (--semiangle), "
        "angular pixel 2 mrad (axes of the file), step 1.5 Å (axes of the file), defocus -150 Å (--defocus)"
    )


# Compressed, locked and unreadable HDF5


def test_an_hdf5_file_that_another_program_writes_is_said_to_be_open_there(
    tmp_path: Path, counts: NDArray[np.uint16]
) -> None:
    path = write(tmp_path / "a.h5", "data", counts)
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

    path = write(tmp_path / "a.h5", "data", counts)
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


# Merlin


def merlin_header(number: int, shape: tuple[int, int], kind: str, layout: str, depth: int, exposure: float) -> bytes:
    text = (
        f"MQ1,{number:06d},00384,04,{shape[1]:04d},{shape[0]:04d},{kind},   {layout},0F,2024-05-18 16:51:49.971626,{exposure},"
        f"0,0,0,3RX,175,511,MQ1A,2024-05-18T14:51:49.971626178Z,555000ns,{depth},"
    )
    return text.encode("ascii").ljust(384)


def turned_words(pixels: NDArray[Any]) -> bytes:
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
        frames.append(header + turned_words(strip >> 12) + turned_words(strip & 4095))
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
    options = RecordingOptions() if told == "ScanX" else RecordingOptions(scan_shape=SCAN)
    recording = read_recording(tmp_path / "scan.mib", options)
    assert (recording.patterns == counts).all()
    assert (counts_of(recording).patterns == counts.reshape(-1, 16, 16)).all()
    note = f"each line has {20 + extra} frames for 20 positions: its {where} {extra} (fly-back) left out"
    assert recording.notes == (note,)


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
