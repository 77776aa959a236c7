"""The page: everything a colleague asks about a campaign, in one file that opens anywhere and prints."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files
from pathlib import Path

from agent.config import CampaignConfig
from agent.formatting import beam, length
from agent.records import CampaignRecord, Score, Trial
from agent.report import plots
from agent.report.cleaning import cleaning_section
from agent.report.headline import (
    SCORE_UNIT,
    cards,
    halves_text,
    quantity_name,
    sentences,
    settings_text,
)
from agent.report.model import model_section
from agent.report.optics import optics_section
from agent.report.pictures import Picture, phase_image, probe_images, spectrum_image
from agent.report.resolution import comes_back
from agent.report.trials_table import trials_table
from agent.storage.atomic import atomic_write
from agent.storage.reconstruction_file import read_reconstruction
from instrument.models import Description

REPORT_NAME = "report.html"
PICTURE_NAME = {
    "final": "Final picture",
    "expert": "Expert's settings",
    "reference": "Reference",
    "exploration": "Best trial so far",
}


def write_report(record: CampaignRecord, folder: Path, out: Path | None = None) -> Path:
    """Write the report of a campaign in any state; what does not exist yet is left out. The file is replaced in one step.

    Args:
        record: of the campaign.
        folder: of the campaign; holds the reconstruction files that the record names.
        out: folder for the report; None: the campaign's.

    Returns:
        The path of the report.
    """
    target = (out or folder) / REPORT_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, page(record, folder))
    return target


def page(record: CampaignRecord, folder: Path) -> str:
    """The report as HTML; `folder` holds the reconstruction files that the record names."""
    title = f"{record.config.name} – ptychopilot report"
    loaded = [(t, load_picture(t, folder)) for t in pictured_trials(record)]
    pictures = [(trial, picture) for trial, picture in loaded if picture is not None]
    css = files("agent.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(
        part
        for part in (
            _header(record),
            _pictures(record, pictures),
            _evidence(record, pictures),
            trials_table(record),
            optics_section(record, PICTURE_NAME),
            model_section(record),
            cleaning_section(record),
            _facts(record),
            _notes(record),
        )
        if part
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{css}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _header(record: CampaignRecord) -> str:
    metadata = record.config.metadata
    subtitle = ", ".join(part for part in (metadata.sample, record.description.name) if part)
    lines = [f"<header><h1>{escape(record.config.name)}</h1><p>{escape(subtitle)}</p></header>"]
    if record.state != "done":
        reason = f": {record.reason}" if record.reason else ""
        how = {"running": "is still running", "stopped": "was stopped", "failed": "has failed"}[record.state]
        lines.append(f'<p class="warning">This campaign {how}{escape(reason)}.</p>')
    shown = "".join(
        f'<div class="card {card.kind}"><h3>{escape(card.title)}</h3><div class="big">{escape(card.value)}</div>'
        f"<p>{escape(card.detail)}</p></div>"
        for card in cards(record)
    )
    lines.append(f'<section class="cards">{shown}</section>')
    lines += [f'<p class="lead">{escape(sentence)}</p>' for sentence in sentences(record)]
    for trial in record.trials:
        if trial.role != "exploration" and trial.veto is not None:
            called = {"final": "final picture", "expert": "picture at the expert's settings", "reference": "reference"}[
                trial.role
            ]
            lines.append(
                f'<p class="warning">The score of the {called} is not to be trusted: {escape(trial.veto)}.</p>'
            )
    return "\n".join(lines)


def _pictures(record: CampaignRecord, shown: list[tuple[Trial, Picture]]) -> str:
    if not shown:
        return ""
    # one colour scale for all pictures: what looks stronger is stronger
    levels = [picture.levels() for _, picture in shown]
    common = (min(low for low, _ in levels), max(high for _, high in levels))
    k_max = record.config.score.k_max
    lines = ["<h2>Pictures</h2>", '<div class="grid">']
    for trial, picture in shown:
        name = PICTURE_NAME[trial.role]
        what = settings_text(trial.settings, record.description.dose_unit)
        resolution = trial.score.resolution if trial.score is not None else None
        ring = "; dashed: half-bit resolution" if resolution is not None else ""
        if trial.score is not None and comes_back(trial.score) is not None:
            ring += ", the first crossing"
        lines.append(
            _figure(
                phase_image(picture, common),
                f"{name}: phase of the object",
                f"{name}: phase, weighted by what both halves see. Trial {trial.number}, {what}",
            )
        )
        lines.append(
            _figure(
                spectrum_image(picture, k_max, resolution),
                f"{name}: Fourier transform",
                f"{name}: amplitude of the phase's Fourier transform{ring}",
            )
        )
    lines.append("</div>")
    return "\n".join(lines)


def pictured_trials(record: CampaignRecord) -> list[Trial]:
    """Final picture and what it is compared with; the best trusted trial where there is no final picture."""
    final = record.trial("final")
    if final is None:
        scored = [t for t in record.trials if t.role == "exploration" and t.state == "done" and t.score is not None]
        final = max(scored, key=lambda t: (t.veto is None, t.score.value if t.score else 0.0), default=None)
    candidates = (final, record.trial("expert"), record.trial("reference"))
    return [t for t in candidates if t is not None and t.reconstruction_file is not None]


def load_picture(trial: Trial, folder: Path) -> Picture | None:
    """The reconstructed phase within the scanned field; None where the file is gone."""
    if trial.reconstruction_file is None or not (folder / trial.reconstruction_file).exists():
        return None
    return Picture.of(read_reconstruction(folder / trial.reconstruction_file))


def _evidence(record: CampaignRecord, pictures: list[tuple[Trial, Picture]]) -> str:
    if not record.trials:
        return ""
    figures = (
        _correlation_figure(record),
        _score_figure(record),
        _electrons_figure(record),
        _probe_figure(pictures),
        _model_figure(record),
    )
    return "\n".join(["<h2>How it came about</h2>", '<div class="grid">', *filter(None, figures), "</div>"])


def _correlation_figure(record: CampaignRecord) -> str:
    curves: list[tuple[str, str, Score]] = [
        (t.role, PICTURE_NAME[t.role], t.score) for t in pictured_trials(record) if t.score is not None and t.score.frc
    ]
    if not curves:
        return ""
    caption = f"Fourier ring correlation between reconstructions of {halves_text(record)}; band: ±1 sd."
    if any(comes_back(score) is not None for _, _, score in curves):
        caption += (
            " Where the contrast transfer is zero, the curve falls below the threshold at any dose, and comes back beyond: the "
            "half-bit resolution is its first crossing."
        )
    return _figure(plots.correlation_curves(curves), "Fourier ring correlation", caption)


def _score_figure(record: CampaignRecord) -> str:
    return _figure(
        plots.scores_by_trial(record.trials, record.target, SCORE_UNIT),
        "Score against trial",
        "Score of each trial ±1 sd. Doses and fields differ between trials, so the final picture need not be the highest."
        + (
            " A cross through a point: the score is not to be trusted."
            if any(t.veto is not None for t in record.trials)
            else ""
        ),
    )


def _electrons_figure(record: CampaignRecord) -> str:
    quantity = quantity_name(record)
    return _figure(
        plots.electrons_by_trial(record.trials, record.config.electrons, quantity),
        f"{quantity} per trial",
        f"{quantity.capitalize()} of each trial (bars) and in all (line) against the budget",
    )


def _probe_figure(pictures: list[tuple[Trial, Picture]]) -> str:
    if not pictures:
        return ""
    return _figure(
        probe_images([(PICTURE_NAME[trial.role], picture) for trial, picture in pictures]),
        "Reconstructed probes",
        "Intensity of the reconstructed probe at the specimen, in the whole window of a pattern",
    )


def _model_figure(record: CampaignRecord) -> str:
    view = record.model_view
    if view is None:
        return ""
    fixed = ", ".join(f"{name} {value:.4g}" for name, value in view.fixed.items())
    held = f" with {fixed} held" if fixed else ""
    maps = plots.model_maps(
        view, record.trials, record.recommended, record.config.expert, SCORE_UNIT, record.description.dose_unit
    )
    return _figure(
        maps,
        "The model's view",
        f"What the model believes{held}, where instrument and campaign allow it.{_front(record)}",
        wide=True,
    )


def _front(record: CampaignRecord) -> str:
    """What other doses would give, in words: the front of score and dose."""
    if record.recommended is None or not record.recommended.front:
        return ""
    unit = record.description.dose_unit
    told = "; ".join(
        f"{each.predicted:.3g} ± {each.predicted_sd:.2g} {SCORE_UNIT} with {each.settings.dose:.3g} {unit} "
        f"({each.settings.place_text()})"
        for each in record.recommended.front
    )
    return f" Other doses, each at its own best settings, are predicted to give {told}."


def _facts(record: CampaignRecord) -> str:
    config, description = record.config, record.description
    detector, trials = description.detector, config.exploration
    current = "current not known" if description.beam_current is None else f"{description.beam_current:g} pA"
    rows = [
        ("Sample", config.metadata.sample),
        ("Operator", config.metadata.operator),
        ("Proposal", config.metadata.proposal),
        ("Comment", config.metadata.comment),
        ("Instrument", description.name),
        ("Beam", f"{beam(description.voltage, description.wavelength)}, {description.semiangle:g} mrad, {current}"),
        ("Apertures", _apertures(config, description)),
        ("Detector", f"{detector.shape[0]} × {detector.shape[1]} pixels of {detector.angular_pixel:g} mrad"),
        ("Area of interest", f"{length(config.area.height)} × {length(config.area.width)}"),
        ("Trials", f"{trials.trials} on {length(trials.height)} × {length(trials.width)}, policy {config.policy}"),
        ("Digital twin", _twins(record)),
        ("Scored band", f"{config.score.k_min:g} … {config.score.k_max:g} 1/Å in rings of {config.score.ring_width:g} 1/Å"),
        ("Started", record.started),
        ("Finished", record.finished),
        ("Folder", record.folder),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]  # fmt: skip
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows if value)
    return f"<h2>Campaign</h2><dl>{shown}</dl>"


def _apertures(config: CampaignConfig, description: Description) -> str:
    """Those that were searched, with their currents; "" where there was no choice."""
    if not config.search.has_apertures(description):
        return ""
    searched = config.search.through(description)
    return ", ".join(
        f"{each.semiangle:g} mrad" + ("" if each.beam_current is None else f" ({each.beam_current:.3g} pA)")
        for each in searched
    )


def _twins(record: CampaignRecord) -> str:
    """How many simulated columns stood behind each suggestion, where any did."""
    used = [f"{count} for trial {trial}" for trial, count in sorted(record.twins.items()) if count]
    return "simulated columns, as this one was measured: " + ", ".join(used) if used else ""


def _notes(record: CampaignRecord) -> str:
    notes = [
        "The score is the information that the phase image carries per area, (1/ln 2) ∫ atanh F(k) 2πk dk in bit/Å², "
        f"with F the Fourier ring correlation between reconstructions of {halves_text(record)}. "
        "Uncertainties are one standard deviation, from the number of independent Fourier pairs in each ring; "
        "they do not hold what differs from one region of the specimen to the next.",
    ]
    if record.description.detector.counts_per_electron is None:
        notes.append(
            "Counts per electron of this detector are not known: doses are counts/Å², and the numbers called counts "
            "are larger than the numbers of electrons by that unknown factor."
        )
    elif record.description.detector.counts_per_electron != 1:
        notes.append(f"The detector gives {record.description.detector.counts_per_electron:g} counts per electron.")
    notes.extend(record.description.notes)
    shown = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2><ul>{shown}</ul>"


def _figure(png: bytes, alternative: str, caption: str, wide: bool = False) -> str:
    css = ' class="wide"' if wide else ""
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return (
        f'<figure{css}><img src="{source}" alt="{escape(alternative)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
