"""What a file says of how it was recorded: units, unequal axes, values that are none, and where each number came from."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from recorded_files import write_array

from instrument import optics
from instrument.errors import BadInputError
from instrument.recordings import RecordingOptions, read_recording

SCAN = (14, 20)
NUMBERS = {"voltage": 80e3, "semiangle": 20.0, "step": 1.5, "angular_pixel": 2.0}


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
        (write_array(tmp_path / "plain.h5", "data", counts, {"scan_step_A": [1.5, 2.0]}), "step"),
    ):
        with pytest.raises(BadInputError, match=rf"its rows and columns have different {name} \("):
            read_recording(path)
        assert read_recording(path, RecordingOptions(numbers={name: 1.7})).numbers[name].value == 1.7


@pytest.mark.parametrize(
    "value", [np.array([80e3]), np.array([[80e3]]), np.float32(80e3), np.int64(80000), "80000", np.bytes_("80000")]
)
def test_an_attribute_of_one_element_is_a_number(tmp_path: Path, counts: NDArray[np.uint16], value: Any) -> None:
    path = write_array(tmp_path / "a.h5", "data", counts, {"voltage": value})
    assert read_recording(path).require()["voltage"] == 80e3


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, "eighty", np.bytes_(b"\xff\xfe"), [1.0, 2.0, 3.0], h5py.Empty("f8"), True, ["a", "b"], 1j]
)
def test_an_attribute_that_is_no_number_counts_as_not_stated_and_an_option_replaces_it(
    tmp_path: Path, counts: NDArray[np.uint16], value: Any
) -> None:
    names = ("voltage", "semiangle", "angular_pixel", "step", "defocus")
    path = write_array(tmp_path / "a.h5", "data", counts, dict.fromkeys(names, value))
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
