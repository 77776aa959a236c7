# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns and specimens by name, by seed and from a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from instrument.errors import BadInputError
from sim_instrument.column import Column
from sim_instrument.specimen import SpecimenOptions
from sim_instrument.zoo import (
    COLUMNS,
    SPECIMENS,
    load_columns,
    named_column,
    named_specimen,
    random_column,
    random_specimen,
)
from sim_instrument.zoo.files import make_entry

DRAWN = [random_column(seed) for seed in range(300)]


def disc_radius(column: Column) -> float:
    return column.semiangle / column.angular_pixel


def reach(column: Column) -> float:
    """How far the detector goes, in units of the convergence angle."""
    return 0.5 * column.detector_pixels / disc_radius(column)


@pytest.mark.parametrize("column", [*COLUMNS.values(), *DRAWN[:100]])
def test_every_column_sees_its_whole_disc_and_dark_field(column: Column) -> None:
    assert 8 <= disc_radius(column) <= 25
    assert reach(column) >= 1.5
    fewest, most = column.electrons_per_pattern
    assert 0 < fewest <= most


def test_the_named_columns_are_of_every_kind() -> None:
    assert {column.voltage for column in COLUMNS.values()} == {60e3, 80e3, 200e3, 300e3}
    assert {name.split("-")[0] for name in COLUMNS} == {"default", "cold", "mono", "schottky"}
    assert any(column.aberrations["C30"] > 1e7 for column in COLUMNS.values())
    assert any(column.line_trigger and column.dwell_times for column in COLUMNS.values())
    assert any(column.max_frame_rate <= 1e3 for column in COLUMNS.values())
    assert any(column.max_frame_rate >= 1e5 for column in COLUMNS.values())


def test_drawn_columns_are_what_the_readme_says() -> None:
    assert all(0.1 <= column.energy_spread <= 1 for column in DRAWN)
    assert all(0.3 <= column.source_size <= 0.9 for column in DRAWN)
    assert {column.voltage for column in DRAWN} == {60e3, 80e3, 120e3, 200e3, 300e3}
    assert 0.15 < sum(column.mirrored for column in DRAWN) / len(DRAWN) < 0.35
    quarters = {math.floor(2 * column.rotation / math.pi) for column in DRAWN}
    assert quarters == {-2, -1, 0, 1}


def test_the_same_seed_draws_the_same() -> None:
    assert random_column(7) == random_column(7) != random_column(8)
    assert random_specimen(7) == random_specimen(7) != random_specimen(8)
    assert named_column("random-7") == random_column(7)
    assert named_specimen("random-7") == random_specimen(7)


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(BadInputError, match=r"no column 'cold-90'; there are default, cold-60.*random-7"):
        named_column("cold-90")
    with pytest.raises(BadInputError, match=r"no specimen 'mos3'; there are 2h-mos2.*graphene"):
        named_specimen("mos3")


def test_a_file_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "columns.yaml"
    path.write_text(
        "- {name: a, seed: 5, specimen: {material: graphene, size: 300}, column: {voltage: 1e5, source_size: 0.7}}\n"
        "- {name: b, seed: 6, specimen: 2h-wse2, column: random-9}\n"
        "- {name: c, specimen: {zoo: mose2-ws2, vacancies: 0}, column: {zoo: cold-60, jitter: 0}}\n"
    )
    first, second, third = load_columns(path)
    assert (first.name, first.seed) == ("a", 5)
    assert first.specimen == SpecimenOptions(material="graphene", size=300, seed=5)
    assert first.column == Column(voltage=1e5, source_size=0.7)
    assert second.column == random_column(9)
    assert second.specimen == SPECIMENS["2h-wse2"].model_copy(update={"seed": 6})
    assert third.column == COLUMNS["cold-60"].model_copy(update={"jitter": 0})
    assert third.specimen.vacancies == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": 1}, "name: None is not a name"),
        ({"name": "a", "seed": -1}, r"\(a\): seed: -1 is not a whole number"),
        ({"name": "a", "columns": {}}, "unknown key 'columns'; known: name, seed, specimen, column"),
        ({"name": "a", "column": {"voltage": 5}}, r"\(a\): column: voltage 5: .*greater than or equal to 20000"),
        (
            {"name": "a", "column": {"volts": 5}},
            "column: volts: there is no such field; there are .*voltage, semiangle",
        ),
        ({"name": "a", "column": "cold-90"}, "column: there is no column 'cold-90'"),
        ({"name": "a", "column": [1]}, "neither a mapping of fields nor a name"),
        ({"name": "a", "specimen": {"material": "tin"}}, "specimen: material 'tin': .*'2h-mos2'"),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_legal(given: object, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        make_entry(given)


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    for text, words in (
        ("name: a", "not a list"),
        ("- {name: a}\n- {name: a}", "stands twice"),
        ("- [", "cannot be read"),
    ):
        path = tmp_path / "columns.yaml"
        path.write_text(text)
        with pytest.raises(BadInputError, match=words):
            load_columns(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        load_columns(tmp_path / "missing.yaml")
