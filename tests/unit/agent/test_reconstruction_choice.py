"""A campaign's `reconstruction` section, a settings file and options: every setting of the engine, by whichever way."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agent.cli.options import EngineOptions
from agent.cli.template import campaign_template
from agent.config import load_settings, parse_config
from agent.errors import BadInputError
from agent.reconstruction import ReconstructionSettings
from agent.reconstruction_choice import ReconstructionChoice

OTHERWISE: dict[str, Any] = {
    "slices": 3,
    "slice_spacing": [1.0, 5.15],
    "object_type": "phase",
    "refine_positions": "lines",
    "refine_optics": ["defocus", "C12"],
    "loss": "amplitude",
    "device": "cpu",
    "padding": 2.0,
    "batch_size": 40,
    "coherence": 0.9,
    "momentum": 0.5,
    "positions_start": 4,
}
"""Values that no rule for types finds."""


def other_value(name: str, default: Any) -> Any:
    if name in OTHERWISE:
        return OTHERWISE[name]
    return not default if isinstance(default, bool) else type(default)(default / 2 + 1)


def campaign(**reconstruction: Any) -> dict[str, Any]:
    sizes = {"height": 20, "width": 20}
    return {"name": "a", "electrons": 1e6, "area": sizes, "exploration": sizes, "reconstruction": reconstruction}


def test_a_campaign_takes_every_setting_of_the_engine() -> None:
    given = {field.name: other_value(field.name, field.default) for field in fields(ReconstructionSettings)}
    settings = parse_config(campaign(**given), "a.yaml").reconstruction.settings()
    for name, value in given.items():
        assert getattr(settings, name) == (tuple(value) if isinstance(value, list) else value), name


def test_scores_are_compared_so_every_trial_gets_the_same_passes_unless_told_otherwise() -> None:
    settings = ReconstructionChoice().settings()
    assert (settings.max_passes, settings.stop_early) == (10, False)
    for field in fields(ReconstructionSettings):
        if field.name not in ("max_passes", "stop_early", "coherence"):
            assert getattr(settings, field.name) == field.default, field.name


def test_pictures_that_are_compared_in_the_end_get_as_many_passes_as_held_out_counts_ask_for():
    ends = {
        "as by default": (ReconstructionChoice(), (60, True)),
        "more for every trial": (ReconstructionChoice(passes=80), (80, True)),
        "as every trial": (ReconstructionChoice(final_passes=0), (10, False)),
        "of the user's own": (ReconstructionChoice(function="a:b"), (10, False)),
    }
    for name, (choice, expected) in ends.items():
        settings = choice.to_the_end().settings()
        assert (settings.max_passes, settings.stop_early) == expected, name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probe_modes": 0}, r"reconstruction\.probe_modes: Input should be greater than or equal to 1 \(got 0\)"),
        ({"step_size": 0}, r"reconstruction\.step_size: Input should be greater than 0"),
        ({"loss": "huber"}, r"reconstruction\.loss: Input should be 'poisson', 'amplitude' or 'gaussian'"),
        ({"slices": 4, "slice_spacing": [1, 2]}, r"reconstruction: slice_spacing of \(1\.0, 2\.0\) is not possible"),
        ({"refine_optics": ["coma"]}, "refine_optics: unknown name 'coma'; known: defocus, C12"),
        ({"passes": 3, "max_passes": 4}, "max_passes and passes are the same; leave one out"),
        ({"iterations": 3}, r"unknown key reconstruction\.iterations"),
    ],
)
def test_a_setting_that_is_not_possible_is_refused_before_anything_is_exposed(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        parse_config(campaign(**wrong), "a.yaml")


def test_the_template_explains_every_setting_with_the_words_of_the_engine() -> None:
    section = campaign_template().split("\nreconstruction:\n")[1].split("\n\n")[0]
    for field in fields(ReconstructionSettings):
        assert f"  {'passes' if field.name == 'max_passes' else field.name}: " in section
    assert "Factor by which the detector is extended" in section


def test_options_come_before_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("probe_modes: 3\nmax_passes: 7\nslices: 2\n", encoding="utf-8")
    options = EngineOptions(
        settings=file, probe_modes=2, slice_spacing="4", refine="positions,intensity", hold_probe=True
    )
    settings = options.choice().settings()
    assert (settings.probe_modes, settings.max_passes, settings.slices, settings.slice_spacing) == (2, 7, 2, 4.0)
    assert (settings.refine_positions, settings.refine_intensity, settings.refine_probe) == ("free", True, False)


def test_a_campaign_file_serves_as_settings_file_and_mistakes_have_their_line(tmp_path: Path) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text("name: a\nreconstruction:\n  slices: 2\n", encoding="utf-8")
    assert load_settings(file).settings().slices == 2
    file.write_text("name: a\nreconstruction:\n  slices: 2\n  loss: none\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"campaign\.yaml: line 4: loss: "):
        load_settings(file)
    file.write_text("- 3\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="holds no settings"):
        load_settings(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"refine": "probe"},
            "--refine probe is not possible; legal: any of positions, lines, linear, optics, intensity",
        ),
        ({"refine": "lines,positions"}, "three models of the same; choose one"),
        ({"slice_spacing": "thin"}, "--slice-spacing thin is not possible; legal: Å"),
        ({"device": "tpu"}, "options: device: Input should be 'auto', 'cpu' or 'gpu'"),
    ],
)
def test_an_option_that_is_not_possible_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        EngineOptions(**options).choice()


def test_what_is_written_is_not_chosen_by_the_counts_and_the_rest_is() -> None:
    free = parse_config(campaign(slices=1, background=True), "a.yaml").reconstruction.chosen
    assert "slices" not in free
    assert "background" not in free
    assert {"amplitude", "positions", "spread"} <= set(free)
    assert parse_config(campaign(model="given"), "a.yaml").reconstruction.chosen == ()
    assert parse_config(campaign(model=["slices"]), "a.yaml").reconstruction.chosen == ("slices",)


def test_a_journal_keeps_what_is_left_to_the_counts_and_one_of_before_leaves_nothing() -> None:
    choice = ReconstructionChoice.model_validate({"slices": 2})
    again = ReconstructionChoice.model_validate_json(choice.model_dump_json())
    assert again.chosen == choice.chosen
    old = {name: value for name, value in choice.model_dump(mode="json").items() if name != "model"}
    assert ReconstructionChoice.model_validate(old).chosen == ()


def test_the_campaign_file_that_init_writes_leaves_the_model_to_the_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(campaign_template(), encoding="utf-8")
    assert load_settings(file).chosen == ReconstructionChoice().chosen


def test_reconstruct_asks_the_counts_only_where_it_is_told_to() -> None:
    assert EngineOptions().choice().chosen == ()
    assert "slices" not in EngineOptions(model="auto", slices=2).choice().chosen
    assert "background" in EngineOptions(model="auto").choice().chosen
