"""What `calibrate` refuses, in one sentence, and how it is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import calibrate
from agent.reconstruction.calibration.centre_of_mass import curl_witness
from instrument import optics


def scan(shape: tuple[int, int] = (9, 9), radius: float = 9.0) -> NDArray[np.int32]:
    """Counts of a disc in the middle of 32 × 32 pixels."""
    disc = 5.0 / (1 + np.exp(2 * (np.hypot(*(np.indices((32, 32)) - 15.7)) - radius)))
    return np.random.default_rng(0).poisson(disc, (*shape, 32, 32)).astype(np.int32)


def spoilt(value: float, dtype: str = "f4") -> NDArray[Any]:
    patterns = scan().astype(dtype)
    patterns[4, 5, 6, 7] = value
    return patterns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patterns": scan()[0]}, "at least 8 × 8 patterns, not 9 × 32 × 32"),
        ({"patterns": scan((4, 9))}, "at least 8 × 8 patterns, not 4 × 9 × 32 × 32"),
        ({"patterns": scan().astype(complex)}, "patterns are of type complex128"),
        ({"patterns": spoilt(np.nan)}, "the patterns of scan row 4 hold values that are not numbers"),
        ({"patterns": spoilt(np.inf)}, "the patterns of scan row 4 hold values that are not numbers"),
        ({"patterns": spoilt(-2.0)}, r"scan row 4 hold negative counts \(smallest -2\)"),
        ({"patterns": spoilt(-2, "i2")}, r"scan row 4 hold negative counts \(smallest -2\)"),
        ({"patterns": scan() * 0}, "all 81 patterns are empty"),
        (
            {"patterns": scan() * 0 + 1},
            "no bright-field disc that lies inside the detector; 1024 of 1024 pixels are bright",
        ),
        ({"patterns": scan(radius=1.5)}, r"at least 3 are needed|no bright-field disc"),
        ({"mask": np.ones((3, 3), dtype=bool)}, r"the mask has shape \(3, 3\), the patterns \(32, 32\)"),
        ({"mask": np.zeros((32, 32), dtype=bool)}, "the mask hides every detector pixel"),
        ({"mask": np.indices((32, 32))[0] > 28}, "no bright-field disc.*pixels that the mask lets count"),
        ({"scan_step": 0.0}, "scan_step of 0.0 is not possible; a positive number"),
        ({"scan_step": float("nan")}, "scan_step of nan is not possible"),
        ({"voltage": 80.0}, "voltage of 80 eV is not possible; .* 80 kV is 80e3"),
        ({"semiangle": -1.0}, "semiangle of -1.0 is not possible"),
        ({"angular_pixel": 0.0}, "angular_pixel of 0.0 is not possible"),
        ({"nominal_defocus": float("inf")}, "nominal_defocus of inf is not a number"),
        (
            {"nominal_defocus": 1e9},
            "nominal_defocus of 1e.09 Å would shift the bright-field images by more than the scan is",
        ),
        ({"scan_step": None}, "scan_step of None is not possible; a positive number"),
        ({"scan_step": 1e-10}, r"scan_step of 1e-10 Å is not possible; legal: 0.001 … 100000 Å \(1 nm is 10"),
        ({"semiangle": 0.02}, "semiangle of 0.02 mrad is not possible; legal: 0.1 … 200 mrad, so 0.02 rad is 20"),
        (
            {"angular_pixel": 0.0022},
            "radius of .* pixels of 0.0022 mrad, .* and semiangle is 20 mrad; one of them is wrong",
        ),
        (
            {"patterns": np.broadcast_to(scan()[:1, :1], (9, 9, 32, 32))},
            "the bright-field images are even: all patterns are",
        ),
        ({"patterns": scan().tolist()}, "patterns are a list; a NumPy array is expected"),
        ({"patterns": spoilt(1e30)}, r"scan row 4 hold 1e\+30 counts in a pixel; legal: up to 1e\+09"),
        ({"mask": np.full((32, 32), 0.5)}, r"the mask \(float64\) holds more than True and False"),
    ],
)
def test_impossible_input_is_refused(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"patterns": scan(), "scan_step": 1.0, "voltage": 80e3, "semiangle": 20.0}
    with pytest.raises(BadInputError, match=message) as caught:
        calibrate(**{**values, **changes})
    assert "\n" not in str(caught.value)


def test_patterns_on_disk_need_not_be_loaded(tmp_path: Any) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = scan()
        stored = calibrate(file["data"], 1.0, 80e3, 20.0)
    loaded = calibrate(scan(), 1.0, 80e3, 20.0)
    assert stored.centre == loaded.centre
    assert stored.defocus == pytest.approx(loaded.defocus)
    assert not loaded.found
    assert "do not tell how the detector is turned" in loaded.notes[0]


@pytest.mark.parametrize("storage", ["array", "hdf5"])
def test_a_raster_whose_images_memory_cannot_hold_is_measured_in_its_middle(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    patterns = scan((20, 24))
    middle = calibrate(patterns[5:15, 6:18], 1.0, 80e3, 20.0)
    whole = calibrate(patterns, 1.0, 80e3, 20.0)
    monkeypatch.setattr("instrument.memory.free_memory", lambda: 2 * 24 * 275 * 10 * 12)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = patterns
        found = calibrate(file["data"] if storage == "hdf5" else patterns, 1.0, 80e3, 20.0)
    assert "memory holds the bright-field images of 10 × 12 of the 20 × 24 positions" in found.notes[-1]
    assert found.phase.shape == middle.phase.shape
    assert found.centre == whole.centre


def test_importing_the_room_does_not_bring_scipy() -> None:
    script = "import sys, agent.reconstruction as r; assert 'scipy' not in sys.modules; assert callable(r.calibrate)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.0, False), (0.7, True), (-2.0, False), (2.6, True)])
def test_curl_tells_rotation_and_hand_of_a_gradient_field(rotation: float, mirrored: bool) -> None:
    rng = np.random.default_rng(5)
    g = np.fft.fftfreq(40)
    blur = np.exp(-((np.hypot(g[:, None], g[None, :]) / 0.12) ** 2))
    phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(40, 40))) * blur).real
    gradient = np.stack(np.gradient(phase), axis=-1)
    field = gradient / gradient.std() + 0.7 * rng.normal(size=gradient.shape)
    field += 5 * np.indices((40, 40)).transpose(1, 2, 0) / 40  # descan
    witness = curl_witness(field @ optics.detector_to_scan(rotation, mirrored))  # rows are M⁻¹ c
    assert witness.mirrored == mirrored
    assert witness.significance > 6
    assert witness.handedness > 4
    assert abs((witness.rotation - rotation + np.pi / 2) % np.pi - np.pi / 2) < 4 * witness.rotation_sd + 0.01


def test_curl_of_noise_is_not_significant() -> None:
    rng = np.random.default_rng(1)
    found = [curl_witness(rng.normal(size=(24, 24, 2))).significance for _ in range(200)]
    assert max(found) < 4.5
    assert np.mean(np.array(found) > 3) < 0.1
