"""The whole way of an acquisition on made-up counts, before the first electron: what would fail after it fails here.

Nothing is exposed or reserved. The instrument is asked what it thinks of a plan of every kind (`ask_instrument`), and a small
acquisition is made up, stored, read, scored, written as a reconstruction and reported (`rehearse`).
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.aims import Budget
from agent.campaign.connection import take_stock
from agent.campaign.layout import scored_edge
from agent.campaign.planning import (
    expert_settings,
    first_policy,
    first_suggestion,
    needs_reference,
    plan_campaign,
    planned_budget,
    reference_settings,
    with_electrons,
)
from agent.campaign.pricing import ask_prices, typical_settings
from agent.config import CampaignConfig, electrons_per_cell, interlacing
from agent.errors import BadInputError, InstrumentUnavailableError
from agent.plugins import load_attribute
from agent.policy.base import Observation
from agent.reconstruction import Reconstruction
from agent.records import CampaignLayout, CampaignRecord, Role, Score, Settings, Suggestion
from agent.report.page import page
from agent.scan_prices import ScanPrices
from agent.scoring.comparison import score_halves
from agent.storage.acquisition_file import AcquisitionWriter, read_acquisition
from agent.storage.reconstruction_file import write_reconstruction
from instrument import AcquisitionPlan, Description, InstrumentClient, Outcome, SeriesStart, optics
from instrument.chunks import compress
from instrument.errors import ExhaustedError, InstrumentError, OutOfLimitsError
from instrument.limits import with_legal_dose
from instrument.models import ELEMENTARY_CHARGE, PlanCheck, Rectangle

_ID = "rehearsal"
_CELLS = 2
"""Edge of the made-up field, in steps."""


def made_up_plan(
    config: CampaignConfig, description: Description, field: Rectangle, settings: Settings
) -> AcquisitionPlan:
    """A plan as the campaign would make it, with no more electrons in a pattern than the instrument can give.

    Args:
        config: of the campaign.
        description: of the instrument.
        field: where, Å.
        settings: step, defocus and dose.
    """
    description = description.through(settings.semiangle)
    passes = interlacing(config, description)
    plan = AcquisitionPlan(
        id=_ID,
        campaign=_ID,
        region=_ID,
        field=field,
        step=settings.step,
        defocus=settings.defocus,
        dose=min(settings.dose, electrons_per_cell(config, description)[1] / settings.step**2),
        semiangle=settings.semiangle,
        pattern=config.scan,
        passes=1 if passes is None else 2,
        interlacing=passes or "offset",
    )
    return plan if description.electrons_per_pattern_values is None else with_legal_dose(plan, description)


@dataclass(frozen=True)
class Ready:
    """What is known before the first electron.

    Attributes:
        config: with its budget in electrons.
        description: what the instrument offers.
        layout: where everything will happen.
        prices: what scans take besides their dose.
        first: what would be tried first.
    """

    config: CampaignConfig
    description: Description
    layout: CampaignLayout
    prices: ScanPrices
    first: Suggestion


async def preflight(client: InstrumentClient, config: CampaignConfig) -> Ready:
    """Everything that can be known before the first electron, in order: layout, policy, instrument, rehearsal.

    Args:
        client: connected; needs no lease.
        config: of the campaign.

    Raises:
        BadInputError: something is impossible; nothing has been reserved or exposed.
        InstrumentUnavailableError: the column is not well.
    """
    if not (health := await client.health()).ok:
        msg = f"the microscope is not well: {health.message or 'it does not say why'}; start the campaign when it is"
        raise InstrumentUnavailableError(msg)
    description, exposed = await take_stock(client)
    asked, config = config, with_electrons(config, description)
    layout = await asyncio.to_thread(plan_campaign, config, description, exposed)
    typical = typical_settings(config, description, layout)
    plans = [made_up_plan(config, description, field, settings) for field, settings in typical]
    prices = await ask_prices(client, plans)
    first = await asyncio.to_thread(first_suggestion, config, description, layout, prices)
    await ask_instrument(client, config, description, layout, first)
    if config.budget != Budget():
        final = dict(_kinds(config, description, layout, first))["final"]
        check = await client.check(final)
        cost = check.electrons / (final.dose * layout.final.area)
        config = with_electrons(asked, description, max(cost, 1.0), _lit(check, description.through(final.semiangle)))
        first = await asyncio.to_thread(first_suggestion, config, description, layout, prices)
    await asyncio.to_thread(rehearse, config, description, layout)
    return Ready(config, description, layout, prices, first)


def _lit(check: PlanCheck, description: Description) -> float:
    """Part of an acquisition's time in which electrons are charged, at most 1."""
    if description.beam_current is None or check.duration <= 0:
        return 1.0
    lit = check.electrons * ELEMENTARY_CHARGE / (description.beam_current * 1e-12)
    return min(lit / check.duration, 1.0)


async def ask_instrument(
    client: InstrumentClient,
    config: CampaignConfig,
    description: Description,
    layout: CampaignLayout,
    first: Suggestion,
) -> None:
    """Ask the instrument whether it would take an acquisition of every kind that the campaign has.

    Args:
        client: connected; needs no lease.
        config: of the campaign.
        description: of the instrument.
        layout: of the campaign.
        first: what the policy would try first.

    Raises:
        BadInputError: it would not; with the kind of acquisition and the instrument's reason.
    """
    for role, plan in _kinds(config, description, layout, first):
        try:
            await client.check(plan)
        except (OutOfLimitsError, ExhaustedError) as error:
            raise BadInputError(f"{_KEY[role]}: the instrument would refuse this acquisition: {error}") from error


_KEY: dict[Role, str] = {"exploration": "exploration", "reference": "goal", "final": "area", "expert": "expert"}
"""Of the campaign file, that says what an acquisition is like."""


def _kinds(
    config: CampaignConfig, description: Description, layout: CampaignLayout, first: Suggestion
) -> Iterator[tuple[Role, AcquisitionPlan]]:
    yield "exploration", made_up_plan(config, description, layout.exploration[0], first.settings)
    if needs_reference(config):
        settings = reference_settings(description, config).settings
        yield "reference", made_up_plan(config, description, layout.exploration[0], settings)
    low, high = description.dose.bounds
    dose = min(planned_budget(config, description).final_share / layout.final.area, config.budget.dose or math.inf)
    last = first.settings.model_copy(update={"dose": min(max(dose, low), high)})
    final = with_legal_dose(made_up_plan(config, description, layout.final, last), description)
    yield "final", final
    if config.expert is not None:
        settings = expert_settings(config, final, layout.final, description).settings
        plan = made_up_plan(config, description, layout.expert or layout.final, settings)
        yield "expert", plan.model_copy(update={"dose": settings.dose})


def rehearse(config: CampaignConfig, description: Description, layout: CampaignLayout) -> None:
    """Store, score and report a made-up acquisition.

    Args:
        config: of the campaign.
        description: of the instrument.
        layout: of the campaign.

    Raises:
        BadInputError: a step fails; with the key of the campaign file that it hangs on.
    """
    score, tiles = _score(config, description)
    if ":" in config.policy:
        with _blaming(f"policy {config.policy}"):
            _ask_policy(config, description, layout)
    with tempfile.TemporaryDirectory(prefix="ptychopilot-") as folder, _blaming("metadata"):
        acquisition = Path(folder) / "acquisition.h5"
        step = min(description.step.bounds[1], config.exploration.height / _CELLS, config.exploration.width / _CELLS)
        settings = Settings(step=step, defocus=description.defocus.bounds[0], dose=description.dose.bounds[0])
        corner = layout.exploration[0]
        field = Rectangle(y=corner.y, x=corner.x, height=_CELLS * step, width=_CELLS * step)
        _store(acquisition, made_up_plan(config, description, field, settings), description, config)
        stored = read_acquisition(acquisition)
        picture = _picture(tiles[0][0], stored.plan)
        write_reconstruction(
            Path(folder) / "reconstruction.h5", picture, score, np.stack(tiles[0]).astype(np.float32), field, stored
        )
        page(CampaignRecord(folder=folder, config=config, description=description, state="running"), Path(folder))


def _ask_policy(config: CampaignConfig, description: Description, layout: CampaignLayout) -> None:
    """Ask a policy of the user's own everything that it will be asked, with one trial behind it."""
    policy = first_policy(config, description, layout)
    settings = policy.suggest(1)[0].settings
    policy.ingest([Observation(trial=1, settings=settings, state="done", score=1.0, variance=0.01)])
    policy.suggest(1)
    left = planned_budget(config, description).final_share
    policy.recommend(left)
    policy.view(left)


def _score(config: CampaignConfig, description: Description) -> tuple[Score, list[tuple[np.ndarray, np.ndarray]]]:
    """The score of two noises on the square that every trial's score comes from."""
    edge, detector, own = scored_edge(config), description.detector, config.score.function
    pixels = [optics.pixel_size(detector.angular_pixel, n, description.energy) for n in detector.shape]
    shape = tuple(max(2, round(edge / pixel)) for pixel in pixels)
    rng = np.random.default_rng(0)
    tiles = [(rng.normal(size=shape), rng.normal(size=shape))]
    sizes = (pixels[0], pixels[1])
    if own is not None:
        with _blaming(f"score.function {own}"):
            score = load_attribute(own)(tiles, sizes, config.score)
            if not isinstance(score, Score):
                msg = f"it returns a {type(score).__name__}, not an agent.records.Score"
                raise TypeError(msg)
        return score, tiles
    with _blaming("score"):
        score = score_halves(tiles, sizes, config.score)
    if score.veto is not None and config.reconstruction.function is None:
        highest, lowest = 0.5 / max(pixels), 1 / edge
        msg = (
            f"score: between k_min {config.score.k_min:g} and k_max {config.score.k_max:g} 1/Å no ring of "
            f"{config.score.ring_width:g} 1/Å has enough Fourier pixels to count; a square of {edge:g} Å on this detector has "
            f"one every {lowest:.3g} 1/Å up to {highest:.3g} 1/Å"
        )
        raise BadInputError(msg)
    return score, tiles


def _store(path: Path, plan: AcquisitionPlan, description: Description, config: CampaignConfig) -> None:
    detector = description.detector
    pattern = np.zeros(detector.shape, detector.dtype)
    pattern[detector.shape[0] // 2, detector.shape[1] // 2] = 1
    header = SeriesStart(1, plan.id, detector.dtype, *detector.shape, plan.n_positions)
    with AcquisitionWriter(path, plan, description, config.metadata) as writer:
        writer.start(header)
        for index in range(plan.n_positions):
            writer.frame(index, compress(pattern), detector.shape, pattern.dtype)
        writer.finish(Outcome(id=plan.id, state="done", frames=plan.n_positions))


def _picture(phase: np.ndarray, plan: AcquisitionPlan) -> Reconstruction:
    return Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64),
        phase=phase.astype(np.float32),
        pixel_size=(plan.step, plan.step),
        origin=(plan.field.y, plan.field.x),
        probe=np.ones((1, 4, 4), np.complex64),
        positions=plan.scan_positions(),
        defocus=plan.defocus,
        aberrations={},
        background=None,
        deviance=(1.0,),
        passes=1,
        illuminated=np.ones(phase.shape, np.float32),
        device="cpu",
        seconds=0.0,
    )


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """What fails inside is a mistake under this key of the campaign file."""
    try:
        yield
    except (BadInputError, InstrumentError):
        raise
    except OSError:
        raise
    except Exception as error:
        msg = f"{key}: cannot be used, as a made-up acquisition shows ({type(error).__name__}: {error})"
        raise BadInputError(msg) from error
