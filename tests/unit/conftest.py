"""A finished campaign on disk, written with the journal and the store themselves: made-up numbers, real files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import between, description, detector, plan, square

from agent.config import CampaignConfig, Metadata, parse_config
from agent.reconstruction.solver.result import Reconstruction
from agent.records import CampaignLayout, ModelView, Recommendation, Score, Settings, Suggestion, Trial
from agent.storage.acquisition_file import Acquisition
from agent.storage.facts import CampaignFacts, InstrumentLink
from agent.storage.journal import Journal
from agent.storage.reconstruction_file import write_reconstruction
from instrument.models import AcquisitionPlan, Description, Outcome

PIXEL = 0.33


def made_up_description(counts_per_electron: float | None = 1.0) -> Description:
    return description(
        beam_current=20.0,
        detector=detector(angular_pixel=1.0, counts_per_electron=counts_per_electron),
        step=between(0.2, 10.0),
        defocus=between(-2000.0, 2000.0),
        dose=between(1.0, 1e4, "e/Å²"),
        electrons_per_pattern=(10.0, 1e6),
        area=square(300.0),
        repeatable=counts_per_electron is None,
        notes=("Made up for a test.",),
    )


def made_up_score(value: float, seed: int) -> Score:
    rng = np.random.default_rng(seed)
    frequency = np.arange(0.175, 1.25, 0.05)
    pairs = 2 * np.pi * frequency * 0.05 * 24**2 / 2 * 0.6
    frc = np.tanh(
        np.clip(0.4 * value - 1.4 * frequency**2, 0, 3) + rng.standard_normal(frequency.size) / np.sqrt(2 * pairs)
    )
    return Score(
        value=value,
        sd=0.015 * value if value < 1 else 0.06,
        resolution=1.02,
        frequency=tuple(frequency.tolist()),
        frc=tuple(frc.tolist()),
        pairs=tuple(pairs.tolist()),
    )


def made_up_reconstruction(plan: AcquisitionPlan, seed: int) -> Reconstruction:
    """A triangular lattice of atoms with noise."""
    n = round((plan.field.height + 24) / PIXEL)
    origin = (plan.field.y - 12.0, plan.field.x - 12.0)
    y, x = np.mgrid[:n, :n] * PIXEL
    waves = [2 * np.pi / 2.74 * np.array([np.sin(a), np.cos(a)]) for a in np.radians((0, 60, 120))]
    phase = 0.2 * sum(np.cos(w[0] * y + w[1] * x) for w in waves)
    phase += 0.05 * np.random.default_rng(seed).standard_normal(phase.shape)
    k = np.hypot(*np.mgrid[-32:32, -32:32]) / 12
    return Reconstruction(
        object=np.exp(1j * phase).astype(np.complex64)[None],
        phase=phase.astype(np.float32),
        pixel_size=(PIXEL, PIXEL),
        origin=origin,
        probe=np.exp(-(k**2)).astype(np.complex64)[None],
        positions=plan.scan_positions(),
        defocus=plan.defocus,
        aberrations={},
        background=None,
        deviance=(1.2, 1.05),
        passes=2,
        illuminated=np.ones(phase.shape, np.float32),
        device="cpu",
        seconds=1.0,
    )


@dataclass
class CampaignOnDisk:
    """Writes a campaign folder step by step."""

    folder: Path
    config: CampaignConfig
    description: Description

    def trial(
        self, number: int, role: Any, settings: tuple[float, float, float], score: float | None, **more: Any
    ) -> Trial:
        step, defocus, dose = settings
        edge = 24.0 if role == "exploration" else 32.0
        scan = plan(f"t{number}", edge, 50.0, 50.0, region=f"r{number}", step=step, defocus=defocus, dose=dose)
        file = None
        if score is not None and more.pop("pictured", False):
            file = f"reconstruction-{number}.h5"
            shape = (1, 1, 1)
            acquisition = Acquisition(
                patterns=np.zeros(shape, np.uint16),
                received=np.ones(1, bool),
                plan=scan,
                description=self.description,
                metadata=Metadata(),
                outcome=Outcome(id=scan.id, state="done"),
            )
            write_reconstruction(
                self.folder / file,
                made_up_reconstruction(scan, number),
                made_up_score(score, number),
                None,
                scan.field,
                acquisition,
            )
        suggestion = Suggestion(
            settings=Settings(step=step, defocus=defocus, dose=dose),
            source="sobol",
            reason="Covers <the> search space.",
        )
        return Trial(
            number=number,
            role=role,
            state="failed" if score is None else "done",
            suggestion=suggestion,
            plan=scan,
            electrons=scan.electrons,
            score=None if score is None else made_up_score(score, number),
            defocus_measured=defocus + 11.0,
            reason="the reconstruction died" if score is None else "",
            reconstruction_file=file,
            seconds={"acquire": 2.0, "process": 3.0},
            **more,
        )


MOS2 = {
    "name": "made-up",
    "electrons": 1.2e7,
    "metadata": {"sample": "paper & <ink>", "operator": "N. N.", "proposal": "42"},
    "area": {"height": 32, "width": 32},
    "exploration": {"height": 24, "width": 24, "trials": 4},
    "expert": [0.85, 500],
}


@pytest.fixture
def finished_campaign(tmp_path: Path) -> Path:
    """Folder of a campaign of four trials (one failed), a final picture and the expert's."""
    folder = tmp_path / "made-up"
    campaign = CampaignOnDisk(folder, parse_config(MOS2, "test"), made_up_description())
    with _journal(campaign) as journal:
        trials = [
            campaign.trial(1, "exploration", (1.2, 300.0, 1200.0), 2.6),
            campaign.trial(2, "exploration", (2.4, 600.0, 800.0), None),
            campaign.trial(3, "exploration", (0.8, 150.0, 2200.0), 2.9),
            campaign.trial(4, "exploration", (1.1, 380.0, 1500.0), 3.0),
            campaign.trial(5, "final", (1.1, 310.0, 5600.0), 4.05, pictured=True),
            campaign.trial(6, "expert", (0.85, 500.0, 5600.0), 3.71, pictured=True),
        ]
        for trial in trials:
            journal.write_trial(trial)
        journal.write(
            state="done",
            finished="2026-03-01T12:02:31.000+00:00",
            recommended=Recommendation(settings=trials[4].settings, predicted=4.1, predicted_sd=0.2, reason="best"),
            model_view=_view(),
        )
    return folder


@pytest.fixture
def cheapest_campaign(tmp_path: Path) -> Path:
    """Folder of a campaign with goal cheapest on a detector whose counts per electron are not known."""
    folder = tmp_path / "cheap"
    config = parse_config({**MOS2, "name": "cheap", "expert": None, "goal": {"kind": "cheapest"}}, "test")
    campaign = CampaignOnDisk(folder, config, made_up_description(counts_per_electron=None))
    with _journal(campaign) as journal:
        trials = [
            campaign.trial(1, "reference", (0.8, 500.0, 5000.0), 0.0040, pictured=True),
            campaign.trial(2, "exploration", (1.6, 500.0, 400.0), 0.0021),
            campaign.trial(3, "exploration", (1.6, 500.0, 1250.0), 0.0038),
        ]
        for trial in trials:
            journal.write_trial(trial)
        journal.write(target=0.0036, recommended=Recommendation(settings=trials[2].settings), state="done")
    return folder


def _journal(campaign: CampaignOnDisk) -> Journal:
    field = campaign.trial(1, "exploration", (1.0, 0.0, 1.0), None).plan.field
    facts = CampaignFacts(
        config=campaign.config,
        description=campaign.description,
        campaign="made-up-1",
        layout=CampaignLayout(final=field, expert=None, exploration=(field,), margin=0),
        link=InstrumentLink(endpoint="tcp://127.0.0.1:1"),
        processing="agent.processing:process",
        versions={"ptychopilot": "0.1.0"},
        started="2026-03-01T12:00:00.000+00:00",
        state="running",
    )
    return Journal.create(campaign.folder, facts)


def _view() -> ModelView:
    step, defocus = np.linspace(0.6, 3.0, 12), np.linspace(0.0, 800.0, 10)
    mean = 4 * np.exp(-((step[None, :] - 1.1) ** 2) - ((defocus[:, None] - 300) / 300) ** 2)
    legal = step[None, :] < 0.2 + 0.01 * defocus[:, None]
    return ModelView(
        x_name="step",
        y_name="defocus",
        x=tuple(step),
        y=tuple(defocus),
        mean=tuple(map(tuple, mean)),
        sd=tuple(map(tuple, 0.1 + 0 * mean)),
        legal=tuple(map(tuple, legal.tolist())),
        fixed={"dose": 5600.0},
    )
