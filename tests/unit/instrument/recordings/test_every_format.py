"""One small data set in every format that is read: `reconstruct` and `replay` get the same patterns and numbers of each."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray

from instrument import AcquisitionPlan, Rectangle, optics
from instrument.recordings import RecordingOptions, counts_of, read_recording
from sim_instrument.replay import ReplayMicroscope

NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "angular_pixel": 2.0, "step": 1.5, "defocus": 200.0}
Written = tuple[Path, RecordingOptions]


def _given(**options: Any) -> RecordingOptions:
    return RecordingOptions(numbers=NUMBERS, **options)


def _plain(folder: Path, counts: NDArray[Any], **storage: Any) -> Written:
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=counts, **storage)
        file.attrs.update(
            {
                "accelerating_voltage_kV": 80.0,
                "semiangle_mrad": [20.0],
                "angular_pixel": 2.0,
                "scan_step_nm": [0.15, 0.15],
                "defocus_nm": 20.0,
            }
        )
    return path, RecordingOptions()


def _compressed(**filter_options: Any) -> Callable[[Path, NDArray[Any]], Written]:
    return lambda folder, counts: _plain(folder, counts, chunks=(1, *counts.shape[1:]), **filter_options)


def _emd(folder: Path, counts: NDArray[Any]) -> Written:
    """As py4DSTEM 0.14 writes a calibrated datacube."""
    path, frequency = folder / "scan.emd", 2e-3 / optics.wavelength(80e3)
    with h5py.File(path, "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = counts
        for axis, (spacing, units) in enumerate([(1.5, "A"), (1.5, "A"), (frequency, "A^-1"), (frequency, "A^-1")]):
            group[f"dim{axis}"] = np.array([0.0, spacing])
            group[f"dim{axis}"].attrs["units"] = units
    given = {name: NUMBERS[name] for name in ("voltage", "semiangle", "defocus")}
    return path, RecordingOptions(numbers=given)


def _nion() -> str:
    scan, angle = {"scale": 0.15, "units": "nm"}, {"scale": 0.002, "units": "rad"}
    instrument = {"high_tension": 80e3, "convergence_angle": 0.02, "defocus": -2e-8}
    return json.dumps({"dimensional_calibrations": [scan, scan, angle, angle], "metadata": {"instrument": instrument}})


def _swift_hdf5(folder: Path, counts: NDArray[Any]) -> Written:
    with h5py.File(folder / "scan.h5", "w") as file:
        file["data"] = counts
        file["data"].attrs["properties"] = _nion()
    return folder / "scan.h5", RecordingOptions()


def _ndata(folder: Path, counts: NDArray[Any]) -> Written:
    array = io.BytesIO()
    np.save(array, counts)
    with zipfile.ZipFile(folder / "scan.ndata", "w") as archive:
        archive.writestr("data.npy", array.getvalue())
        archive.writestr("metadata.json", _nion())
    return folder / "scan.ndata", RecordingOptions()


def _hyperspy(folder: Path, counts: NDArray[Any]) -> Written:
    """As HyperSpy 2 writes it: lengths in nm, angles in mrad, keV."""
    with h5py.File(folder / "scan.hspy", "w") as file:
        group = file.create_group("Experiments/__unnamed__")
        group["data"] = counts
        for axis, (scale, units) in enumerate([(0.15, "nm"), (0.15, "nm"), (2.0, "mrad"), (2.0, "mrad")]):
            group.create_group(f"axis-{axis}").attrs.update({"scale": scale, "units": units})
        microscope = group.create_group("metadata/Acquisition_instrument/TEM")
        microscope.attrs.update({"beam_energy": 80.0, "convergence_angle": 20.0})
    return folder / "scan.hspy", RecordingOptions(numbers={"defocus": 200.0})


def _rosettasciio_emd(folder: Path, counts: NDArray[Any]) -> Written:
    """As RosettaSciIO 0.15 writes EMD 0.2: all axes in reverse."""
    with h5py.File(folder / "scan.emd", "w") as file:
        group = file.create_group("signals/scan")
        group["data"] = counts.transpose()
        for axis, (scale, units) in enumerate([(2.0, "[m_r_a_d]")] * 2 + [(0.15, "[n_m]")] * 2, start=1):
            group[f"dim{axis}"] = np.array([0.0, scale])
            group[f"dim{axis}"].attrs["units"] = units
    given = {name: NUMBERS[name] for name in ("voltage", "semiangle", "defocus")}
    return folder / "scan.emd", RecordingOptions(numbers=given)


def _nexus(folder: Path, counts: NDArray[Any]) -> Written:
    """As RosettaSciIO 0.15 writes NeXus."""
    with h5py.File(folder / "scan.nxs", "w") as file:
        group = file.create_group("entry1/scan")
        group["data"] = counts
        group.attrs["axes"] = np.array([b"y", b"x", b"ky", b"kx"])
        for axis, (name, scale, units) in enumerate(
            [("y", 0.15, "nm"), ("x", 0.15, "nm"), ("ky", 2.0, "mrad"), ("kx", 2.0, "mrad")]
        ):
            group[name] = np.arange(counts.shape[axis]) * scale
            group[name].attrs["units"] = units
    given = {name: NUMBERS[name] for name in ("voltage", "semiangle", "defocus")}
    return folder / "scan.nxs", RecordingOptions(numbers=given)


def _matlab(folder: Path, counts: NDArray[Any]) -> Written:
    """As MATLAB writes dp(ky, kx, n) with -v7.3: its axes in reverse, behind a user block."""
    rows = counts.reshape(-1, *counts.shape[2:])
    with h5py.File(folder / "scan.mat", "w", userblock_size=512) as file:
        data = file.create_dataset("dp", data=rows.swapaxes(1, 2))
        data.attrs["MATLAB_class"] = np.bytes_("uint16")
    return folder / "scan.mat", _given(scan_shape=counts.shape[:2])


def _stack(folder: Path, counts: NDArray[Any]) -> Written:
    """As fold_slice and PtyRAD keep it."""
    with h5py.File(folder / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = counts.reshape(-1, *counts.shape[2:])
        file["detector_distance"] = 1.0
    return folder / "data_roi0_dp.hdf5", _given(scan_shape=counts.shape[:2])


def _master(folder: Path, counts: NDArray[Any]) -> Written:
    """As ARINA writes it: two data files, bitshuffle and lz4, a line a trigger."""
    rows = counts.reshape(-1, *counts.shape[2:])
    path, first = folder / "scan_master.h5", len(rows) // 3
    with h5py.File(path, "w") as master:
        for i, part in enumerate((rows[:first], rows[first:]), start=1):
            with h5py.File(folder / f"scan_data_{i:06d}.h5", "w") as file:
                file.create_dataset(
                    "entry/data/data", data=part, chunks=(1, *part.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")
                )
            master[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(f"scan_data_{i:06d}.h5", "entry/data/data")
        specific = master.create_group("entry/instrument/detector/detectorSpecific")
        specific["ntrigger"], specific["nimages"] = counts.shape[:2]
        specific["pixel_mask"] = np.zeros(counts.shape[2:], np.uint32)
    return path, _given()


def _merlin(folder: Path, counts: NDArray[Any]) -> Written:
    rows = counts.reshape(-1, *counts.shape[2:]).astype(">u2")
    height, width = rows.shape[1:]
    header = f"MQ1,000001,00384,01,{width:04d},{height:04d},U16,   1x1,01,".encode().ljust(384)
    (folder / "scan.mib").write_bytes(b"".join(header + pattern.tobytes() for pattern in rows))
    return folder / "scan.mib", _given(scan_shape=counts.shape[:2])


def _raw(folder: Path, counts: NDArray[Any]) -> Written:
    (folder / "scan.raw").write_bytes(b"header" + counts.astype(">u2").tobytes())
    return folder / "scan.raw", _given(
        scan_shape=counts.shape[:2], detector_shape=counts.shape[2:], dtype=">u2", offset=6
    )


def _numpy(folder: Path, counts: NDArray[Any]) -> Written:
    np.save(folder / "scan.npy", counts)
    return folder / "scan.npy", _given()


def _floats(folder: Path, counts: NDArray[Any]) -> Written:
    """Whole numbers, as programs that average or correct write them."""
    np.save(folder / "floats.npy", counts.astype(np.float32))
    return folder / "floats.npy", _given()


FORMATS: dict[str, Callable[[Path, NDArray[Any]], Written]] = {
    "plain HDF5": _plain,
    "HDF5, gzip": _compressed(compression="gzip"),
    "HDF5, bitshuffle and lz4": _compressed(**hdf5plugin.Bitshuffle(cname="lz4")),
    "HDF5, blosc": _compressed(**hdf5plugin.Blosc()),
    "HDF5, zstd": _compressed(**hdf5plugin.Zstd()),
    "EMD": _emd,
    "Swift HDF5": _swift_hdf5,
    "ndata": _ndata,
    "HyperSpy": _hyperspy,
    "RosettaSciIO's EMD": _rosettasciio_emd,
    "NeXus": _nexus,
    "MATLAB 7.3": _matlab,
    "patterns in a row": _stack,
    "DECTRIS master": _master,
    "Merlin": _merlin,
    "raw": _raw,
    "NumPy": _numpy,
    "floats": _floats,
}
"""Name -> writes counts (scan_y, scan_x, ky, kx) into a folder: the path, and options that tell what of NUMBERS it does not."""


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint16]:
    """(8, 9, 16, 12)."""
    return np.random.default_rng(0).poisson(30, (8, 9, 16, 12)).astype(np.uint16)


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_says_the_same_in_every_format(tmp_path: Path, counts: NDArray[np.uint16], name: str) -> None:
    path, options = FORMATS[name](tmp_path, counts)
    recording = read_recording(path, options)
    assert (recording.patterns == counts).all()
    assert recording.require(*NUMBERS) == pytest.approx(NUMBERS)
    assert (counts_of(recording).patterns == counts.reshape(-1, 16, 12)).all()


@pytest.mark.parametrize("name", FORMATS)
async def test_replay_serves_the_same_patterns_from_every_format(
    tmp_path: Path, counts: NDArray[np.uint16], name: str
) -> None:
    path, options = FORMATS[name](tmp_path, counts)
    microscope = ReplayMicroscope(path, tmp_path / "state", options)
    described = await microscope.describe()
    step, field = 1.5, Rectangle(y=0, x=0, height=8 * 1.5, width=9 * 1.5)
    assert (described.voltage, described.semiangle) == pytest.approx((80e3, 20.0))
    assert described.step.values == pytest.approx((step,))
    everything = counts.sum() / (8 * 9 * step**2)
    plan = AcquisitionPlan(
        id="a", campaign="c", region="r", field=field, step=described.step.values[0], defocus=200, dose=everything
    )
    frames = [frame.pattern async for frame in microscope.acquire(plan)]
    assert (np.stack(frames) == counts.reshape(-1, 16, 12)).all()
    assert frames[0].dtype == np.uint16
