"""An ensemble of simulated columns: a file that grows and that a campaign can begin with."""

import numpy as np
import pytest
from examples import description

from agent.errors import BadInputError
from agent.policy.ensemble import SHIPPED, is_usable, read_members
from agent.twin import picture
from agent.twin.build import build
from agent.twin.column import draw_column
from agent.twin.specimens import checked_classes, draw_specimen


def test_a_picture_is_worth_more_at_a_higher_dose_and_less_where_probes_hardly_overlap():
    rng = np.random.default_rng(0)
    column = draw_column(description(), rng)
    specimen = draw_specimen("layered", rng, 30)
    fine = picture.information(column, specimen, 1.5, column.defocus(0.3), [300.0, 3000.0], rng)
    coarse = picture.information(column, specimen, 3.6, column.defocus(0.05), [3000.0], rng)
    assert fine[1] > fine[0] > 0
    assert fine[1] > coarse[0]


def test_a_build_leaves_out_what_the_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.twin.build.information", lambda *given: [1.0, 2.0])
    path = tmp_path / "columns.jsonl"
    columns = [(f"c{n}", n, description()) for n in range(3)]
    assert len(list(build(path, columns[:2], ("light",), None))) == 2
    assert [m.name for m in build(path, columns, ("light",), None)] == ["c2"]
    assert [m.seed for m in read_members(path)] == [0, 1, 2]
    assert list(build(path, [("c9", 9, description())], ("light",), 0.0)) == []


def test_an_unknown_class_of_specimens_is_refused_with_those_that_are_known():
    with pytest.raises(BadInputError, match="'wood' is unknown; legal: layered, light, crystal, amorphous"):
        checked_classes("light,wood")


def test_the_columns_that_come_with_the_agent_can_be_read():
    members = read_members(SHIPPED)
    assert len(members) >= 20
    assert sum(is_usable(np.array(m.values)) for m in members) >= 0.9 * len(members)
    assert all(m.seed < 1000 for m in members)
