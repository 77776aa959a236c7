"""From whatever file a person has to what a reconstruction takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from examples import description, detector, one_of, plan
from numpy.typing import NDArray

from agent.config import Metadata
from agent.errors import BadInputError
from agent.processing.assemble import PatternFile, read_patterns
from agent.storage.acquisition_file import AcquisitionWriter
from instrument import Outcome, Rectangle, stream
from instrument.recordings import RecordingOptions

NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "step": 0.5}


def read(path: Path, **numbers: float) -> PatternFile:
    return read_patterns(path, RecordingOptions(numbers=numbers))


@pytest.fixture
def counts() -> NDArray[np.uint16]:
    """(3, 4, 32, 32) with a disc of radius 8 at (16, 15)."""
    distance = np.hypot(np.arange(32)[:, None] - 16, np.arange(32)[None, :] - 15)
    return np.random.default_rng(0).poisson(200 * (distance < 8) + 0.1, (3, 4, 32, 32)).astype(np.uint16)


def test_plain_array_needs_the_numbers_that_no_array_has(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, counts)
    with pytest.raises(
        BadInputError, match=r"does not say voltage, semiangle, step; give --voltage, --semiangle, --step$"
    ):
        read(path)
    file = read(path, **NUMBERS, defocus=-150.0)
    assert (file.data.patterns == counts.reshape(12, 32, 32)).all()
    assert file.scan_shape == (3, 4)
    assert file.data.positions[5] == pytest.approx((0.75, 0.75))
    assert file.data.defocus == -150
    assert file.data.angular_pixel == pytest.approx(20 / 8, rel=0.03)
    assert not file.geometry_known


def test_recording_states_its_numbers_and_options_overrule_them(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["deep/inside/patterns"] = counts
        file.attrs.update({"voltage": 80e3, "semiangle_mrad": 20.0})
        file["deep/inside"].attrs["scan_step_A"] = 0.5
        file["deep/inside/patterns"].attrs.update({"angular_pixel_mrad": 2.5, "defocus": 100.0})
    data = read(path, semiangle=19.0).data
    assert (data.voltage, data.semiangle, data.angular_pixel, data.defocus) == (80e3, 19.0, 2.5, 100.0)
    assert data.positions[1, 1] - data.positions[0, 1] == pytest.approx(0.5)


def test_emd_axes_give_step_and_angular_pixel(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    path = tmp_path / "py4dstem.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = counts
        for axis, (spacing, units) in enumerate([(0.05, "nm"), (0.05, "nm"), (0.06, "A^-1"), (0.06, "A^-1")]):
            group[f"dim{axis}"] = np.array([0.0, spacing])
            group[f"dim{axis}"].attrs["units"] = units
    file_read = read(path, voltage=80e3, semiangle=20.0)
    assert file_read.step == pytest.approx(0.5)
    assert file_read.data.angular_pixel == pytest.approx(20 / 8, rel=0.03)
    with h5py.File(path, "a") as file:
        file.attrs["voltage"] = 80e3
    assert read(path, semiangle=20.0).data.angular_pixel == pytest.approx(0.06 * 0.0417572 * 1e3, rel=1e-5)


def write_acquisition(path: Path, counts: NDArray[np.uint16], missing: int | None) -> None:
    column = description(
        detector=detector(32, 2.5, dead_pixels=((3, 4),)),
        semiangle=20,
        step=one_of(0.5),
        defocus=one_of(150.0),
        scan_rotation=0.3,
        mirrored=True,
    )
    scan = plan(field=Rectangle(y=10, x=20, height=1.5, width=2), step=0.5, defocus=150, dose=1e4)
    with AcquisitionWriter(path, scan, column, Metadata()) as writer:
        for index, pattern in enumerate(counts.reshape(12, 32, 32)):
            if index != missing:
                writer.frame(index, stream.compress(pattern), (32, 32), np.dtype(np.uint16))
        writer.finish(Outcome(id="a", state="done"))


@pytest.mark.parametrize("missing", [None, 5])
def test_acquisition_file_brings_its_own_geometry_and_leaves_out_lost_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: NDArray[np.uint16], missing: int | None
) -> None:
    path = tmp_path / "acquisition.h5"
    write_acquisition(path, counts, missing)
    file = read(path)
    kept = [i for i in range(12) if i != missing]
    assert (file.data.patterns == counts.reshape(12, 32, 32)[kept]).all()
    assert file.data.positions[-1] == pytest.approx((11.25, 21.75))
    assert file.scan_shape == ((3, 4) if missing is None else None)
    assert file.geometry_known
    assert file.data.mask is not None
    assert not file.data.mask[3, 4]
    assert file.data.mask.sum() == 32 * 32 - 1
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 1)
    on_disk = read(path).data.patterns
    assert isinstance(on_disk, np.memmap)
    assert (on_disk == file.data.patterns).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.h5", None, "there is no such file"),
        ("text.h5", b"hello", "is not an HDF5 file"),
        ("text.npy", b"hello", "not a NumPy array"),
        (".", None, "is a folder; name a file in it"),
        ("scan.h5.part", b"anything", "is still being written, or what wrote it was stopped; wait for scan.h5"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        read(path, **NUMBERS)
    assert "\n" not in str(caught.value)


def test_damaged_and_unfit_files_are_refused(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    whole = tmp_path / "whole.h5"
    with h5py.File(whole, "w") as file:
        file["data"] = counts
    (tmp_path / "truncated.h5").write_bytes(whole.read_bytes()[:-1000])
    with h5py.File(tmp_path / "twice.h5", "w") as file:
        file["a"], file["b"] = counts, counts
    np.save(tmp_path / "flat.npy", counts[0])
    np.save(tmp_path / "empty.npy", counts * 0)
    with h5py.File(tmp_path / "row.h5", "w") as file:
        file["data"] = counts[:0]
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "truncated.h5": ("is truncated", NUMBERS),
        "twice.h5": ("several data sets could be meant", NUMBERS),
        "flat.npy": ("3-dimensional", NUMBERS),
        "empty.npy": ("holds no counts", NUMBERS),
        "whole.h5": (r"--step -1 is not possible; legal: a positive number", {**NUMBERS, "step": -1.0}),
        "row.h5": (r"holds no counts, its shape is 0 × 4 × 32 × 32", NUMBERS),
    }
    for name, (message, numbers) in cases.items():
        with pytest.raises(BadInputError, match=message):
            read(tmp_path / name, **numbers)
    assert read_patterns(tmp_path / "twice.h5", RecordingOptions("/b", numbers=NUMBERS)).scan_shape == (3, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"voltage": 80.0},
            r"voltage of 80 is not possible; legal: 1000 … 1e\+07 eV \(--voltage takes kV\); give --voltage",
        ),
        ({"semiangle": 0.02}, r"semiangle of 0.02 is not possible; legal: 0.1 … 200 mrad; give --semiangle"),
        ({"step": 1e5}, r"step of 100000 is not possible; legal: 0.001 … 10000 Å; give --step"),
        ({"defocus": -1e7}, r"defocus of -1e\+07 is not possible"),
        ({"defocus": float("nan")}, r"--defocus nan is not possible; legal: a number of Å, positive for underfocus"),
    ],
)
def test_numbers_in_other_units_are_refused(
    tmp_path: Path, counts: NDArray[np.uint16], wrong: dict[str, float], message: str
) -> None:
    np.save(tmp_path / "scan.npy", counts)
    with pytest.raises(BadInputError, match=message):
        read(tmp_path / "scan.npy", **{**NUMBERS, **wrong})
