"""An ensemble of simulated columns: a file that grows and that a campaign can begin with."""

import numpy as np
import pytest
from examples import description

from agent.errors import BadInputError
from agent.policy.ensemble import DOSES, PARTS, SHIPPED, STEPS, is_usable, read_members
from agent.records import Optics
from agent.twin import picture
from agent.twin.build import build
from agent.twin.column import draw_column, draw_measured_column
from agent.twin.refine import PICTURES, TwinJob, member, specimen_class
from agent.twin.refine import picture as picture_of_twin
from agent.twin.specimens import CLASSES, checked_classes, draw_specimen


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


def test_a_measured_column_lies_about_what_was_measured_and_is_told_that():
    beam, rng = description(), np.random.default_rng(1)
    known = Optics(
        defocus=100.0,
        rotation=0.0,
        mirrored=False,
        centre=(32.0, 32.0),
        aberrations={"C12": 40.0, "phi12": 0.3, "C30": 2e5},
        sd={"C12": 2.0, "phi12": 0.02, "source_size": 0.05, "defocus": 3.0},
        source_size=0.8,
    )
    drawn = [draw_measured_column(beam, known, rng) for _ in range(300)]
    turned = [column.aberrations["C12"] * np.exp(2j * column.aberrations["phi12"]) for column in drawn]
    along = np.array(turned) * np.exp(-2j * 0.3)
    assert along.real.mean() == pytest.approx(40, abs=0.5)
    assert along.real.std() == pytest.approx(2.0, rel=0.2)
    assert along.imag.std() == pytest.approx(2 * 40 * 0.02, rel=0.2)
    sizes = np.array([column.source_size for column in drawn])
    assert (sizes.mean(), sizes.std()) == (pytest.approx(0.8, abs=0.01), pytest.approx(0.05, rel=0.2))
    # not measured: as wide as in columns that nothing is known of
    unknown = [draw_column(beam, np.random.default_rng(seed)) for seed in range(300)]
    for name in ("C21", "C30"):
        spread = np.std([column.aberrations[name] for column in drawn])
        assert spread == pytest.approx(np.std([column.aberrations[name] for column in unknown]), rel=0.25)
    assert np.mean([column.aberrations["C30"] for column in drawn]) == pytest.approx(2e5, rel=0.1)
    assert np.std([column.focal_spread for column in drawn]) > 5
    assert {tuple(column.told.items()) for column in drawn} == {(("C12", 40.0), ("phi12", 0.3), ("C30", 2e5))}
    assert {column.told_source_size for column in drawn} == {0.8}


def test_a_picture_of_a_twin_is_the_same_whoever_asks_and_however_often(monkeypatch):
    optics = Optics(defocus=0.0, rotation=0.0, mirrored=False, centre=(0.0, 0.0))
    job = TwinJob(description=description(), known=optics, specimen="light", seed=4, number=2)
    seen = []

    def information(column, specimen, step, defocus, doses, rng):
        seen.append((column, specimen.places.tobytes(), step, defocus, rng.random()))
        return [1.0, 2.0]

    monkeypatch.setattr("agent.twin.refine.information", information)
    jobs = [job.model_copy(update={"picture": number}) for number in range(PICTURES)]
    asked = [picture_of_twin(each) for each in jobs]
    other = job.model_copy(update={"number": 3, "picture": 5})
    picture_of_twin(other)
    assert picture_of_twin(jobs[5]).values == (1.0, 2.0)
    assert seen[PICTURES + 1] == seen[5] != seen[PICTURES]
    assert len({places for _, places, *_ in seen[:PICTURES]}) == 1
    found = member(job, asked)
    assert np.shape(found.values) == (len(STEPS), len(PARTS), len(DOSES))
    assert (found.seed, found.specimen) == (2, "light")
    assert {specimen_class(None, number) for number in range(1, 5)} == set(CLASSES)
    assert specimen_class("crystal", 2) == "crystal"
