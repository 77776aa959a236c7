"""What a campaign's acquisitions learn from each other about the model, and when they are asked anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.model_record import AskedPart, ChosenModel
from agent.processing.column import Measured
from agent.processing.column_state import ColumnState
from agent.processing.how_much_model import with_model
from agent.reconstruction import DiffractionData
from agent.reconstruction_choice import ReconstructionChoice

TOLD = ChosenModel(
    settings={"slices": 3, "slice_spacing": 20.0, "background": True},
    data={"point_spread": 0.4},
    asked=(
        AskedPart(part="slices", label="3 slices 20 Å apart", gain=1.2e-3, sd=2e-4, taken=True),
        AskedPart(part="positions", label="positions refined one by one", gain=-1e-5, sd=2e-5, taken=False),
    ),
    dose=1e4,
    defocus=100.0,
)


def measured(model: ChosenModel | None = TOLD, found: bool = True) -> Measured:
    axis = (np.arange(6) + 0.5) * 1.5
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    counts = np.random.default_rng(1).poisson(1.0, (36, 32, 32)).astype(np.uint8)
    data = DiffractionData(counts, positions, 80e3, 21.4, 3.0, 110.0)
    state = ColumnState((16.0, 16.0), np.eye(2), 10.0, widths={"defocus": 1.0} if found else {}, model=model)
    return Measured(data, state, ())


def asked(choice: ReconstructionChoice, before: Measured, dose: float, defocus: float = 100.0) -> ChosenModel | None:
    return with_model(before, choice, dose, defocus, lambda fraction: None).chosen


def test_what_one_acquisition_told_serves_the_next() -> None:
    given = measured()
    modelled = with_model(given, ReconstructionChoice(), 5e3, 100.0, lambda fraction: None)
    assert modelled.chosen == TOLD
    assert (modelled.settings.slices, modelled.settings.slice_spacing) == (3, 20.0)
    assert modelled.data.point_spread == 0.4
    assert modelled.data.defocus - modelled.depth == given.data.defocus
    assert modelled.depth == 20.0


@pytest.mark.parametrize(("dose", "defocus"), [(3e4, 100.0), (1e4, 600.0)], ids=["higher dose", "other defocus"])
def test_better_data_are_asked_again(dose: float, defocus: float) -> None:
    choice = ReconstructionChoice.model_validate({"model": ["background"], "passes": 2})
    chosen = asked(choice, measured(), dose, defocus)
    assert chosen is not None
    assert (chosen.dose, chosen.looks) == (dose, 2)
    assert set(chosen.settings) == {"background"}


def test_a_campaign_asks_a_few_times_only() -> None:
    often = TOLD.model_copy(update={"looks": 4})
    assert asked(ReconstructionChoice(), measured(often), 1e6) == often


def test_an_acquisition_whose_optics_were_not_found_tells_nothing_of_the_model() -> None:
    assert asked(ReconstructionChoice(), measured(None, found=False), 1e4) is None


def test_a_defocus_that_nobody_has_measured_is_not_made_up_for_by_slices() -> None:
    chosen = asked(ReconstructionChoice(calibrate=False, passes=1), measured(None), 1e4)
    assert chosen is not None
    assert "background" in chosen.settings
    assert not {"slices", "variable_modes"} & set(chosen.settings)


def test_who_writes_the_whole_model_keeps_it() -> None:
    choice = ReconstructionChoice.model_validate({"model": "given", "slices": 2})
    modelled = with_model(measured(), choice, 1e6, 100.0, lambda fraction: None)
    assert modelled.chosen is None
    assert modelled.settings.slices == 2
    # what was measured is the defocus of the specimen's middle, what slices are counted from is the first of them
    assert (modelled.depth, modelled.data.defocus) == (5, measured().data.defocus + 5)
    told = with_model(measured(found=False), choice, 1e6, 100.0, lambda fraction: None)
    assert (told.depth, told.data.defocus) == (0, measured().data.defocus)


def test_the_model_is_carried_with_what_is_known_of_the_column(tmp_path: Path) -> None:
    state = measured().state
    state.save(tmp_path / "column.json")
    assert ColumnState.load(tmp_path / "column.json").model == TOLD
    replace(state, model=None).save(tmp_path / "column.json")
    assert ColumnState.load(tmp_path / "column.json").model is None


def test_a_person_reads_what_was_taken_and_what_was_not() -> None:
    sentence = TOLD.sentence()
    assert "3 slices 20 Å apart (−12.0 ± 2.0)" in sentence
    assert "not positions refined one by one (0.10 ± 0.20)" in sentence
