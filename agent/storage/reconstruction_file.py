"""Reconstruction files: the picture, its score, and what both were made from, in HDF5.

The file is never modified once it has its name. README.md of this room says what is where in it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from agent.cleaning_record import Cleaning
from agent.config import Metadata
from agent.model_record import ChosenModel
from agent.reconstruction import Reconstruction
from agent.records import Optics, Score
from agent.storage.acquisition_file import Acquisition
from agent.storage.emd import write_tree
from agent.storage.nexus import NewFile, put, read_context, read_pair, read_text, reading, write_entry, write_image
from instrument.models import AcquisitionPlan, Description, Rectangle


@dataclass(frozen=True)
class StoredReconstruction:
    """What a reconstruction file holds.

    Attributes:
        reconstruction: object, probe and all that is known of them.
        score: of the acquisition.
        half_phases: (2, y, x), rad, of the two half-count reconstructions, on the grid of `reconstruction.phase`.
        scored: the part that was scored, in the frame of the positions, Å.
        plan: of the acquisition.
        description: of the instrument.
        metadata: sample, operator, proposal.
        notes: what the reconstruction has to say to a person.
        optics: as measured; None: not known.
        cleaning: what was left out, masked and found in the patterns; None: not known.
        mask: (ky, kx), True where the detector counted; None: not known.
        model: how much it may explain, as held-out counts chose; None: as configured.
    """

    reconstruction: Reconstruction
    score: Score
    half_phases: NDArray[np.float32] | None
    scored: Rectangle
    plan: AcquisitionPlan
    description: Description
    metadata: Metadata
    notes: tuple[str, ...]
    optics: Optics | None = None
    cleaning: Cleaning | None = None
    mask: NDArray[np.bool_] | None = None
    model: ChosenModel | None = None


def write_reconstruction(
    path: Path,
    reconstruction: Reconstruction,
    score: Score,
    half_phases: NDArray[np.float32] | None,
    scored: Rectangle,
    acquisition: Acquisition,
    notes: tuple[str, ...] = (),
    *,
    optics: Optics | None = None,
    cleaning: Cleaning | None = None,
    mask: NDArray[np.bool_] | None = None,
    model: ChosenModel | None = None,
) -> None:
    """Write a reconstruction file.

    Args:
        path: of the file to write.
        reconstruction: from all counts.
        score: of the acquisition.
        half_phases: (2, y, x), rad, of the two half-count reconstructions.
        scored: the part that was scored, Å.
        acquisition: what it was made from; its plan, description and metadata are written along.
        notes: what the reconstruction has to say to a person.
        optics: as measured; None: not known.
        cleaning: what was left out, masked and found in the patterns.
        mask: (ky, kx), True where the detector counted.
        model: how much it may explain, as held-out counts chose.

    Raises:
        StoppedError: the disk is full; nothing half-written stays behind.
    """
    r = reconstruction
    with NewFile(path) as new, new.writing() as file:
        entry = write_entry(
            file, acquisition.plan, acquisition.description, acquisition.metadata, default="phase_image"
        )
        y, x = (r.origin[axis] + np.arange(r.phase.shape[axis]) * r.pixel_size[axis] for axis in (0, 1))
        write_image(entry, "phase_image", r.phase, "rad", (y, x), "Å", "phase of the object")
        write_image(entry, "amplitude_image", np.abs(r.object).prod(axis=0), "", (y, x), "Å", "amplitude of the object")
        probe_axes = tuple((np.arange(n) - n // 2) * p for n, p in zip(r.probe.shape[1:], r.pixel_size, strict=True))
        intensity = (np.abs(r.probe) ** 2).sum(axis=0)
        write_image(entry, "probe_image", intensity, "counts", probe_axes, "Å", "intensity of the probe, all states")
        if score.frequency:
            _write_frc(entry, score)
        _write_process(entry, r, half_phases)
        process = entry["reconstruction"]
        process["score"] = score.model_dump_json()
        process["scored"] = scored.model_dump_json()
        if notes:  # an empty data set is what HyperSpy cannot read
            process.create_dataset("notes", data=list(notes), dtype=h5py.string_dtype())
        if optics is not None:
            _write_optics(process, optics)
        for name, found in (("cleaning", cleaning), ("model", model)):
            if found is not None:
                process[name] = found.model_dump_json()
        if mask is not None:
            put(process, "mask", mask.astype(np.uint8), "", "1 where the detector counted (row, column)")
        write_tree(file, "phase", "Array", process["phase"], (("y", y, "Å"), ("x", x, "Å")))
        new.publish()


def _write_process(entry: h5py.Group, r: Reconstruction, half_phases: NDArray[np.float32] | None) -> None:
    process = entry.create_group("reconstruction")
    process.attrs["NX_class"] = "NXprocess"
    process["program"] = "ptychopilot"
    put(process, "object", r.object, "", "complex transmission (slices, y, x)")
    put(process, "phase", r.phase, "rad", "phase summed over the slices")
    put(process, "probe", r.probe, "", "probe states (mode, y, x), real space, centred")
    put(process, "positions", r.positions, "Å", "probe positions (y, x) as used")
    put(process, "illuminated", r.illuminated, "", "summed probe intensity relative to its maximum")
    put(process, "pixel_size", np.asarray(r.pixel_size), "Å", "(y, x)")
    put(process, "origin", np.asarray(r.origin), "Å", "(y, x) of the first pixel")
    put(process, "defocus", r.defocus, "Å", "measured, positive for underfocus")
    if r.deviance:
        put(
            process, "deviance", np.asarray(r.deviance), "", "Poisson deviance per detector pixel of some of the passes"
        )
    put(process, "passes", r.passes, "", "passes over all patterns")
    put(process, "seconds", r.seconds, "s", "wall-clock time")
    put(process, "phase_scale", r.phase_scale, "", "what the phases were divided by: noise had made them too weak")
    process["device"] = r.device
    process["aberrations"] = json.dumps(dict(r.aberrations))
    if r.background is not None:
        put(process, "background", r.background, "counts", "counts a pattern that no coherent model explains")
    if half_phases is not None:
        put(process, "half_phases", half_phases, "rad", "phases of the two half-count reconstructions (half, y, x)")


def _write_optics(process: h5py.Group, optics: Optics) -> None:
    """Each number with its unit, and its standard deviation, where it was measured, beside it as NAME_errors."""
    group = process.create_group("optics")
    group.attrs["NX_class"] = "NXcollection"
    numbers = {
        "defocus": (optics.defocus, "Å", "positive for underfocus"),
        "rotation": (optics.rotation, "rad", "from the detector's axes to the scan's"),
        "row": (optics.centre[0], "pixel", "of the zero beam"),
        "column": (optics.centre[1], "pixel", "of the zero beam"),
        **{
            name: (value, "rad" if name.startswith("phi") else "Å", "aberration, Krivanek's polar notation")
            for name, value in optics.aberrations.items()
        },
    }
    for name, (value, unit, long_name) in numbers.items():
        put(group, name, value, unit, long_name)
        if name in optics.sd:
            put(group, f"{name}_errors", optics.sd[name], unit, "standard deviation")
    put(group, "mirrored", optics.mirrored, "", "whether the detector is seen from behind")
    if optics.handedness is not None:
        put(
            group,
            "handedness",
            optics.handedness,
            "",
            "standard deviations by which this hand is better than the other",
        )


def _read_optics(group: h5py.Group) -> Optics:
    values = {name: float(dataset[()]) for name, dataset in group.items()}
    sd = {name.removesuffix("_errors"): value for name, value in values.items() if name.endswith("_errors")}
    return Optics(
        defocus=values["defocus"],
        rotation=values["rotation"],
        mirrored=bool(values["mirrored"]),
        centre=(values["row"], values["column"]),
        aberrations={name: value for name, value in values.items() if re.fullmatch(r"(C|phi)\d\d", name)},
        sd=sd,
        handedness=values.get("handedness"),
    )


def read_reconstruction(path: Path) -> StoredReconstruction:
    """Read a reconstruction file.

    Args:
        path: of the file.

    Raises:
        BadInputError: it is no reconstruction file, or damaged.
    """
    with reading(path, "reconstruction") as entry:
        group = entry["reconstruction"]
        plan, description, metadata = read_context(entry)
        return StoredReconstruction(
            reconstruction=Reconstruction(
                object=group["object"][:],
                phase=group["phase"][:],
                pixel_size=read_pair(group["pixel_size"]),
                origin=read_pair(group["origin"]),
                probe=group["probe"][:],
                positions=group["positions"][:],
                defocus=float(group["defocus"][()]),
                aberrations=json.loads(read_text(group["aberrations"])),
                background=group["background"][:] if "background" in group else None,
                deviance=tuple(group["deviance"][:].tolist()) if "deviance" in group else (),
                passes=int(group["passes"][()]),
                illuminated=group["illuminated"][:],
                device=read_text(group["device"]),
                seconds=float(group["seconds"][()]),
                phase_scale=float(group["phase_scale"][()]) if "phase_scale" in group else 1.0,
            ),
            score=Score.model_validate_json(read_text(group["score"])),
            half_phases=group["half_phases"][:] if "half_phases" in group else None,
            scored=Rectangle.model_validate_json(read_text(group["scored"])),
            plan=plan,
            description=description,
            metadata=metadata,
            notes=tuple(note.decode() for note in group["notes"][:]) if "notes" in group else (),
            optics=_read_optics(group["optics"]) if "optics" in group else None,
            cleaning=Cleaning.model_validate_json(read_text(group["cleaning"])) if "cleaning" in group else None,
            mask=group["mask"][:].astype(bool) if "mask" in group else None,
            model=ChosenModel.model_validate_json(read_text(group["model"])) if "model" in group else None,
        )


def _write_frc(entry: h5py.Group, score: Score) -> None:
    data = entry.create_group("fourier_ring_correlation")
    data.attrs["NX_class"] = "NXdata"
    data.attrs["signal"] = "frc"
    data.attrs["axes"] = ["frequency"]
    put(data, "frc", np.asarray(score.frc, dtype=np.float64), "", "Fourier ring correlation of the two halves")
    put(data, "frequency", np.asarray(score.frequency, dtype=np.float64), "1/Å", "spatial frequency")
    put(data, "pairs", np.asarray(score.pairs, dtype=np.float64), "", "independent Fourier pairs per ring")
