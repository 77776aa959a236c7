"""The optics as a campaign has measured them, each number with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from agent.formatting import signed_length, uncertain
from agent.records import CampaignRecord, Optics, Trial


def measured_defocus(trial: Trial) -> str:
    """The defocus ± sd of a trial, Å, without the unit; in parentheses where its own counts do not tell it."""
    if trial.defocus_measured is None:
        return ""
    if trial.optics is None:
        return signed_length(trial.defocus_measured).removesuffix(" Å")
    sd = trial.optics.sd.get("defocus")
    if sd is None:
        return f"({signed_length(trial.defocus_measured).removesuffix(' Å')})"
    sign = "+" if trial.defocus_measured > 0 else ""
    return sign + uncertain(trial.defocus_measured, sd, 0)


def carried_over(trial: Trial) -> bool:
    """Whether a trial was reconstructed with a defocus that its own counts do not tell."""
    return trial.optics is not None and "defocus" not in trial.optics.sd


def optics_section(record: CampaignRecord, names: Mapping[str, str]) -> str:
    """Rotation, handedness, astigmatism, centre and defocus with their standard deviations, as HTML.

    Args:
        record: of the campaign; nothing is shown where no trial tells of its optics.
        names: role -> what its picture is called.
    """
    known = [t for t in record.trials if t.optics is not None]
    if not known:
        return ""
    last = known[-1].optics
    assert last is not None
    defoci = (
        f"{names[t.role]}: {measured_defocus(t)} Å (set-point {signed_length(t.settings.defocus)})"
        for role in ("final", "expert", "reference")
        if (t := record.trial(role)) is not None and t.optics is not None
    )
    rows = [("Defocus", "; ".join(defoci) or f"{measured_defocus(known[-1])} Å"), *_rows(last)]
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    note = (
        "The defocus is that of the specimen's middle plane, measured in each trial that tells it. All else belongs to the "
        "column, and trials correct it as long as it is uncertain. Uncertainties are one standard deviation. What has none was "
        "taken from the set-point or from the instrument."
    )
    return f"<h2>Optics</h2><dl>{shown}</dl><p class='soft'>{escape(note)}</p>"


def _rows(optics: Optics) -> list[tuple[str, str]]:
    rotation = _degrees(optics.rotation, optics.sd.get("rotation"))
    hand = "mirrored" if optics.mirrored else "not mirrored"
    if optics.handedness is None:
        hand += ", as the instrument says"
    else:
        hand += f", measured: this hand explains the counts better than the other by {optics.handedness:.1f} standard deviations"
    centre = (
        f"{axis} {uncertain(value, optics.sd.get(axis))}"
        for axis, value in zip(("row", "column"), optics.centre, strict=True)
    )
    return [
        ("Detector to scan", f"rotation {rotation}"),
        ("Handedness", hand),
        *((_ABERRATION.get(name, name), _aberration(optics, name)) for name in _aberrations(optics)),
        ("Zero beam", f"{', '.join(centre)} pixels"),
        *_coherence(optics),
    ]


def _coherence(optics: Optics) -> list[tuple[str, str]]:
    """Source size and focal spread where they were measured."""
    numbers = (
        ("Source (FWHM)", optics.source_size, optics.sd.get("source_size")),
        ("Focal spread (sd)", optics.focal_spread, optics.sd.get("focal_spread")),
    )
    return [(name, f"{uncertain(value, sd)} Å") for name, value, sd in numbers if sd is not None]


_ABERRATION = {
    "C12": "Two-fold astigmatism",
    "C21": "Axial coma",
    "C23": "Three-fold astigmatism",
    "C30": "Spherical aberration",
}


def _aberrations(optics: Optics) -> list[str]:
    """Names of the coefficients: two-fold astigmatism always, others where they are not zero."""
    found = {name for name, value in optics.aberrations.items() if name.startswith("C") and value}
    return sorted(found | {"C12"})


def _aberration(optics: Optics, name: str) -> str:
    """Magnitude and, where it has one that is told by the data, angle."""
    size, sd = optics.aberrations.get(name, 0.0), optics.sd.get(name)
    if sd is None and not size:
        return "not measured"
    text = f"{name} = {uncertain(size, sd)} Å"
    angle = f"phi{name[1:]}"
    if name[2] == "0" or angle not in optics.aberrations:
        return text
    if sd is not None and size < 2 * sd:
        return f"{text}: none that the counts tell from noise"
    return f"{text}, φ{name[1:]} = {_degrees(optics.aberrations[angle], optics.sd.get(angle))}"


def _degrees(angle: float, sd: float | None) -> str:
    text = uncertain(math.degrees(angle), None if sd is None else math.degrees(sd), 0)
    return f"({text})°" if "±" in text else f"{text}°".replace("-", "−")
