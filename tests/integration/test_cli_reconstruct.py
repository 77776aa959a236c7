"""`ptychopilot reconstruct` on a part of the experimental recording: calibrated, reconstructed, scored, written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from phantom import SEMIANGLE, VOLTAGE, experiment
from recorded_files import scan_of_atoms

from agent.cli.reconstruct import reconstruct_file
from agent.errors import BadInputError, NoResultError
from agent.known_geometry import KnownGeometry
from agent.reconstruction_choice import ReconstructionChoice
from agent.report.pictures import Picture
from agent.storage.reconstruction_file import read_reconstruction
from instrument import optics
from instrument.recordings import RecordingOptions, read_recording

STILL: dict[str, Any] = {"model": "given", "passes": 2, "padding": 1.0}
"""On the pixels on which `scan_of_atoms` is made."""
QUICK = ReconstructionChoice.model_validate(STILL)
QUICKLY = ("--passes", "6", "--no-calibrate")
RECORDING = Path(__file__).parents[3] / "shared" / "data" / "rotavirus_cryo_4dstem.h5"


def recording_part(folder: Path) -> Path:
    """A seventh of the recording's scan, in a file of its own."""
    part = folder / "part.h5"
    with h5py.File(RECORDING) as source, h5py.File(part, "w") as target:
        target["data"] = source["data"][16:40, 0:24]
        for where, attributes in ((target, source.attrs), (target["data"], source["data"].attrs)):
            for name, value in attributes.items():
                where.attrs[name] = value
    return part


@pytest.mark.recording
def test_a_recording_becomes_object_picture_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not RECORDING.exists():
        pytest.skip(f"the experimental recording is not at {RECORDING}")
    from agent.cli import main

    part = recording_part(tmp_path)
    result = tmp_path / "result.json"
    with pytest.raises(SystemExit) as end:
        main(["reconstruct", str(part), "--out", str(tmp_path / "out"), "--passes", "3", "--json", str(result)])
    assert not end.value.code
    printed = capsys.readouterr().out
    told = json.loads(result.read_text(encoding="utf-8"))
    assert told["defocus_measured"] == pytest.approx(135e3, rel=0.05)
    assert told["score"]["value"] > 5 * told["score"]["sd"]
    for key in ("object", "picture"):
        assert Path(told[key]).parent == tmp_path / "out"
        assert Path(told[key]).stat().st_size > 1000
        assert told[key] in printed


def test_regularise_smooths_the_picture_and_leaves_the_score(tmp_path: Path) -> None:
    from agent.cli import main

    step, path = 2.0, tmp_path / "scan.h5"
    data = experiment(dose=3e2, step=step)
    side = round(np.sqrt(len(data.patterns)))
    with h5py.File(path, "w") as file:
        file["data"] = data.patterns.reshape(side, side, *data.patterns.shape[1:])
        file.attrs.update({"voltage": VOLTAGE, "semiangle_mrad": SEMIANGLE, "scan_step_A": step})
        file.attrs.update({"angular_pixel_mrad": data.angular_pixel, "nominal_defocus_magnitude_A": data.defocus})
    told, rough = [], []
    for option in ([], ["--regularise"]):
        result, out = tmp_path / "result.json", tmp_path / f"out{len(option)}"
        with pytest.raises(SystemExit) as end:
            main(["reconstruct", str(path), "--out", str(out), "--json", str(result), *QUICKLY, *option])
        assert not end.value.code
        told.append(json.loads(result.read_text(encoding="utf-8")))
        del told[-1]["score"]["grid"]  # it is the picture's
        rough.append(float(np.std(np.diff(Picture.of(read_reconstruction(Path(told[-1]["object"]))).phase))))
    assert told[0]["score"] == told[1]["score"]
    assert rough[1] < 0.8 * rough[0], rough


@pytest.mark.parametrize(
    ("factor", "size", "target", "message"),
    [
        (0.37, 32, {}, "holds 0.37 in a pixel, and the score is made of whole counts; give --counts-per-electron"),
        (1e10, 32, {}, r"holds 1e\+10 counts in a pixel; legal: up to 1e\+09"),
        (1, 7, {}, "holds patterns of 7 × 7 pixels; at least 8 × 8 are expected, the detector's axes last"),
        (1, 32, {"out": "scan.h5"}, "scan.h5: cannot be written .*; name another folder with --out"),
        (
            1,
            32,
            {"json_file": "absent/result.json"},
            "result.json: cannot be written; name a file in a folder that exists",
        ),
    ],
)
def test_what_cannot_be_scored_or_written_is_refused_before_anything_is_computed(
    tmp_path: Path, factor: float, size: int, target: dict[str, str], message: str
) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["data"] = factor * np.ones((4, 4, size, size), np.float32)
        file.attrs.update({"voltage": 80e3, "semiangle_mrad": 20.0, "scan_step_A": 1.0, "angular_pixel_mrad": 2.5})
    places = {"out": tmp_path / "out", "json_file": None} | {name: tmp_path / where for name, where in target.items()}
    with pytest.raises(BadInputError, match=message):
        reconstruct_file(path, places["out"], RecordingOptions(), QUICK, places["json_file"])
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


GIVEN = {"voltage": 80e3, "semiangle": 20.0, "step": 1.5, "angular_pixel": 2.0, "defocus": 200.0}
"""Of the scan of atoms."""


def calibrated(path: Path, patterns: NDArray[Any], **numbers: float | None) -> tuple[Path, Path, RecordingOptions]:
    """File, output folder and options; a number that is None is not given."""
    np.save(path, patterns)
    given = {name: value for name, value in (GIVEN | numbers).items() if value is not None}
    return path, path.parent / "out", RecordingOptions(numbers=given)


def hot_pixel(patterns: NDArray[Any]) -> NDArray[Any]:
    one = np.zeros_like(patterns)
    one[:, :, 14, 16] = 2000
    return one


@pytest.mark.parametrize(
    ("angular_pixel", "spoil", "message"),
    [
        (2.0, lambda p: p.transpose(2, 3, 0, 1), "legal on 14 × 20 pixels: .*; are the detector's axes the last ones"),
        (
            None,
            lambda p: p.transpose(2, 3, 0, 1),
            "no bright-field disc .*; 280 of 280 pixels .* axes are not the last",
        ),
        (2.0, lambda p: np.full_like(p, 4095), "no bright-field disc .*; 1024 of 1024 pixels .* counts are saturated"),
        (2.0, lambda p: np.random.default_rng(0).poisson(9, p.shape).astype("u2"), "1024 of 1024 pixels are bright"),
        (2.0, hot_pixel, "all 280 patterns are empty on the pixels that the mask lets count"),
        (2.0, lambda p: p[:, :, 8:24, 8:24], "legal on 16 × 16 pixels: 2 … 16 mrad"),
        (None, lambda p: p[:, :, 8:24, 8:24], "no bright-field disc .* the disc is larger than the detector"),
        (2.0, lambda p: np.fft.ifftshift(p, axes=(2, 3)), "zero beam in the corners .*; apply numpy.fft.fftshift"),
        (None, lambda p: np.fft.ifftshift(p, axes=(2, 3)), "zero beam in the corners .*; apply numpy.fft.fftshift"),
        (2.0, lambda p: p[:1, :1], "there is only one pattern; 16 are needed"),
        (2.0, lambda p: p[:1], "nothing says how the detector is turned, .* a raster of 1 × 20, not one of at least 8"),
    ],
)
def test_a_recording_without_a_disc_or_a_raster_is_refused_in_one_sentence(
    tmp_path: Path, angular_pixel: float | None, spoil: Callable[[NDArray[Any]], NDArray[Any]], message: str
) -> None:
    path, out, options = calibrated(tmp_path / "scan.npy", spoil(scan_of_atoms()), angular_pixel=angular_pixel)
    with pytest.raises(BadInputError, match=message) as refused:
        reconstruct_file(path, out, options, QUICK)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (1e4, "neighbouring positions lie 1e.04 Å apart, .*; a step within the probe's width is needed; are they in Å"),
        (0.15, "nominal_defocus of 200 Å .* legal with steps of 0.15 Å: up to .*; are both in Å"),
    ],
)
def test_a_step_in_another_unit_is_what_the_sentence_is_about(tmp_path: Path, step: float, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        reconstruct_file(*calibrated(tmp_path / "scan.npy", scan_of_atoms(), step=step), QUICK)


def test_a_step_in_nm_without_a_defocus_is_doubted_and_its_score_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = calibrated(tmp_path / "scan.npy", scan_of_atoms(), step=0.15, defocus=None)
    with pytest.raises(NoResultError, match="the scored field is too small"):
        reconstruct_file(*call, QUICK)
    assert "17 steps of 0.15 Å; is the step in Å (1 nm is 10)?" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "scan-phase.png").exists()


def test_a_known_orientation_settles_the_sign_of_the_defocus(tmp_path: Path) -> None:
    turned = scan_of_atoms()[:, :, ::-1, ::-1].swapaxes(2, 3)
    path, out, options = calibrated(tmp_path / "scan.npy", turned, defocus=None)
    result = tmp_path / "result.json"
    known = KnownGeometry(transpose=True, flip_rows=True, flip_columns=True)
    reconstruct_file(path, out, options, QUICK, result, geometry=known)
    told = json.loads(result.read_text(encoding="utf-8"))
    # the sign is what matters here; the hard rim of this scan's aperture costs the likelihood 30 Å
    assert told["defocus_measured"] == pytest.approx(200, abs=40)
    assert told["score"]["value"] > 5 * told["score"]["sd"]


def test_a_line_scan_is_reconstructed_where_the_geometry_is_known(tmp_path: Path) -> None:
    path, out, options = calibrated(tmp_path / "scan.npy", scan_of_atoms()[4:7])
    known = KnownGeometry(rotation=0, centre=(16, 16), bad_pixels=("3,:",))
    still = ReconstructionChoice.model_validate(STILL | {"calibrate": False})
    reconstruct_file(path, out, options, still, geometry=known)
    picture = read_reconstruction(out / "scan-reconstruction.h5")
    assert picture.optics is not None
    assert picture.optics.centre == (16, 16)
    assert picture.optics.rotation == pytest.approx(0)


def test_an_orientation_that_the_images_contradict_is_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = calibrated(tmp_path / "scan.npy", scan_of_atoms(), defocus=None)
    with suppress(NoResultError):
        reconstruct_file(*call, QUICK, geometry=KnownGeometry(rotation=40))
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"the images say that the detector is turned by -?0\.\d°, not by 40\.0°, which is used", told)


def test_a_probe_from_a_file_makes_up_for_a_wrong_defocus(tmp_path: Path) -> None:
    path, out, options = calibrated(tmp_path / "scan.npy", scan_of_atoms(), defocus=80.0)
    k = np.fft.fftfreq(32, optics.pixel_size(2.0, 32, 80e3))
    angle = np.hypot(k[:, None], k) * optics.wavelength(80e3)
    wave = (angle < 20e-3) * np.exp(-1j * optics.aberration_phase(k[:, None], k[None], 80e3, {"C10": -200.0}))
    np.save(tmp_path / "probe.npy", np.fft.fftshift(np.fft.ifft2(wave)))
    scores = {}
    for probe in (None, tmp_path / "probe.npy"):
        choice = ReconstructionChoice.model_validate(
            STILL | {"passes": 3, "calibrate": False, "refine_probe": False, "probe": probe}
        )
        result = tmp_path / "result.json"
        with suppress(NoResultError):
            reconstruct_file(path, out, options, choice, result, geometry=KnownGeometry(rotation=0))
        scores[probe] = json.loads(result.read_text(encoding="utf-8"))["score"]["heldout_gain"]
    assert scores[tmp_path / "probe.npy"] > 2 * scores[None]

    earlier = ReconstructionChoice.model_validate(STILL | {"calibrate": False, "probe": out / "scan-reconstruction.h5"})
    reconstruct_file(path, tmp_path / "again", options, earlier, geometry=KnownGeometry(rotation=0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            np.ones((16, 16), complex),
            r"holds complex128 of shape \(16, 16\); complex waves \(modes, 32, 32\) are expected",
        ),
        (np.ones((32, 32)), "holds float64 of shape"),
        (np.zeros((32, 32), complex), "the probe is 0 everywhere"),
    ],
)
def test_what_is_no_probe_is_refused(tmp_path: Path, content: NDArray[Any], message: str) -> None:
    call = calibrated(tmp_path / "scan.npy", scan_of_atoms())
    np.save(tmp_path / "probe.npy", content)
    choice = ReconstructionChoice.model_validate(STILL | {"calibrate": False, "probe": tmp_path / "probe.npy"})
    with pytest.raises(BadInputError, match=message):
        reconstruct_file(*call, choice)
    missing = choice.model_copy(update={"probe": tmp_path / "absent.h5"})
    with pytest.raises(BadInputError, match=r"the probe cannot be taken from .*absent\.h5"):
        reconstruct_file(*call, missing)


def test_xrays_and_light_are_reconstructed_as_electrons_of_the_same_wavelength(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, still = {}, ReconstructionChoice.model_validate(STILL | {"calibrate": False})
    for wavelength in (None, 6328.0, 1.409):  # 80 kV, copper's neighbour at 8.8 keV, a red laser; a tenth of the angles
        longer = 1.0 if wavelength is None else 10 * wavelength / optics.wavelength(80e3)
        options = RecordingOptions(
            numbers={
                "semiangle": 20.0 if wavelength is None else 2.0,
                "angular_pixel": 2.0 if wavelength is None else 0.2,
                "step": 1.5 * longer,
                "defocus": 200.0 * longer * (1 if wavelength is None else 10),
                **({"voltage": 80e3} if wavelength is None else {"wavelength": wavelength}),
            }
        )
        np.save(tmp_path / "scan.npy", scan_of_atoms())
        result = tmp_path / "result.json"
        call = (tmp_path / "scan.npy", tmp_path / "out", options)
        with suppress(NoResultError):
            reconstruct_file(*call, still, result, geometry=KnownGeometry(rotation=0))
        found = json.loads(result.read_text(encoding="utf-8"))
        told[wavelength] = found["score"]["value"] * longer**2
        stored = read_reconstruction(Path(found["object"]))
        assert stored.reconstruction.pixel_size[0] == pytest.approx(longer * optics.pixel_size(2.0, 32, 80e3), rel=1e-6)
        assert stored.description.wavelength == pytest.approx(wavelength)
    with suppress(NoResultError):
        reconstruct_file(*call, QUICK, result)  # of the X-rays, with the geometry measured
    assert json.loads(result.read_text(encoding="utf-8"))["defocus_measured"] == pytest.approx(2000 * longer, rel=0.05)
    assert told[1.409] == pytest.approx(told[None], rel=0.02)
    assert told[6328.0] == pytest.approx(told[None], rel=0.02)
    assert "wavelength 1.409 Å (--wavelength)" in capsys.readouterr().out


def test_photons_that_are_stated_as_a_voltage_are_doubted_and_both_together_refused(tmp_path: Path) -> None:
    path, _, _ = calibrated(tmp_path / "scan.npy", scan_of_atoms())
    stated = GIVEN | {"voltage": 8.8e3}
    recording = read_recording(path, RecordingOptions(numbers=stated))
    assert (
        "8.8 kV are taken for the energy of electrons; X-rays and light are stated by --wavelength" in recording.notes
    )
    with pytest.raises(BadInputError, match="--voltage is of electrons and --wavelength of X-rays or light"):
        read_recording(path, RecordingOptions(numbers=stated | {"wavelength": 1.4}))
