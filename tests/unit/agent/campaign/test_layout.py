"""Regions never overlap in what they illuminate, and running out of specimen is said with numbers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import examples
import pytest
from examples import between, square
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.campaign.layout import defocus_range, fresh_field, plan_layout, scored_rectangle
from agent.config import CampaignConfig
from agent.errors import BadInputError
from instrument.models import Aperture, Description, Rectangle

COLUMN = {"area": square(300), "step": between(0.1, 10), "defocus": between(-2000, 2000)}


def description(**changes: Any) -> Description:
    return examples.description(**(COLUMN | changes))


def config(**changes: Any) -> CampaignConfig:
    values: dict[str, Any] = {
        "name": "test",
        "electrons": 1e6,
        "area": {"height": 40, "width": 40},
        "exploration": {"trials": 8, "height": 20, "width": 20},
        "search": {"defocus": (-200, 500)},
    }
    return CampaignConfig.model_validate({**values, **changes})


def test_nothing_illuminated_overlaps_and_all_lies_inside() -> None:
    layout = plan_layout(description(), config(expert=(0.85, 500.0)))
    assert layout.expert is not None
    assert layout.margin > 1e-3 * 21.4 * 500, "the widest probe's radius is the least margin"
    fields = [layout.final, layout.expert, *layout.exploration]
    assert len(layout.exploration) == 8
    assert (layout.expert.height, layout.expert.width) == (40, 40)
    assert all(description().area.contains(field) for field in fields)
    for one, other in combinations(fields, 2):
        assert not one.grown(layout.margin).overlaps(other.grown(layout.margin), tolerance=1e-4)


def test_area_of_interest_lies_in_the_middle_unless_told() -> None:
    layout = plan_layout(description(), config())
    assert (layout.final.y, layout.final.x) == (130, 130)
    told = plan_layout(description(), config(area={"height": 40, "width": 40, "y": 20, "x": 30}))
    assert (told.final.y, told.final.x) == (20, 30)


def test_what_was_exposed_by_whomever_is_left_alone() -> None:
    before = plan_layout(description(), config()).exploration[0]
    stale = before.grown(3)
    layout = plan_layout(description(), config(), exposed=[stale])
    assert not any(field.grown(layout.margin).overlaps(stale, tolerance=1e-4) for field in layout.exploration)


def test_an_exposed_area_of_interest_is_refused() -> None:
    with pytest.raises(BadInputError, match="exposed before"):
        plan_layout(description(), config(), exposed=[Rectangle(y=150, x=150, height=1, width=1)])


def test_running_out_of_fresh_area_says_how_many_fit() -> None:
    with pytest.raises(BadInputError, match=r"fresh area runs out: \d+ of 200 trials"):
        plan_layout(description(), config(exploration={"trials": 200, "height": 20, "width": 20}))


def test_no_room_for_the_expert_is_said() -> None:
    with pytest.raises(BadInputError, match="expert"):
        plan_layout(description(), config(area={"height": 200, "width": 200}, expert=(0.85, 500.0)))


def test_area_beyond_the_specimen_is_refused_with_the_legal_area() -> None:
    with pytest.raises(BadInputError, match=r"y 0 … 300"):
        plan_layout(description(), config(area={"height": 40, "width": 40, "y": 290, "x": 0}))


def test_defocus_that_the_lens_cannot_reach_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"-2000 … 2000 Å"):
        defocus_range(description(), config(search={"defocus": (3000, 4000)}))


def test_an_expert_whose_probe_is_wider_than_a_pattern_s_window_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"expert: at a defocus of 5000 Å the probe is wider .* up to ±\d+"):
        plan_layout(description(), config(expert=(0.85, 5000.0)))


def test_a_recording_is_used_again_and_again() -> None:
    recording = description(repeatable=True)
    layout = plan_layout(recording, config(expert=(0.85, 500.0)), exposed=[Rectangle(y=0, x=0, height=300, width=300)])
    assert layout.expert == layout.final
    assert len(set(layout.exploration)) == 1
    assert layout.final.contains(layout.exploration[0])


def test_trials_larger_than_a_recording_s_area_are_refused() -> None:
    with pytest.raises(BadInputError, match="larger than the area of interest"):
        plan_layout(description(repeatable=True), config(exploration={"trials": 1, "height": 60, "width": 60}))


def test_the_scored_square_is_the_same_in_every_trial_and_the_final_keeps_the_same_rim() -> None:
    campaign = config()
    layout = plan_layout(description(), campaign)
    squares = [scored_rectangle(field, campaign) for field in layout.exploration]
    assert {(s.height, s.width) for s in squares} == {(15.0, 15.0)}
    assert all(field.contains(square) for field, square in zip(layout.exploration, squares, strict=True))
    final = scored_rectangle(layout.final, campaign)
    assert (final.height, final.width) == (35.0, 35.0)


def test_a_scored_square_larger_than_the_field_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"score\.field"):
        scored_rectangle(Rectangle(y=0, x=0, height=20, width=20), config(score={"field": 25}))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 60), st.floats(1, 60)),
        max_size=6,
    ),
    st.floats(0, 10),
)
def test_a_fresh_field_is_found_exactly_when_a_lattice_search_finds_one(
    rectangles: list[tuple[float, float, float, float]], margin: float
) -> None:
    area = Rectangle(y=0, x=0, height=100, width=100)
    taken = [Rectangle(y=y, x=x, height=h, width=w) for y, x, h, w in rectangles]
    beside = Rectangle(y=40, x=40, height=20, width=20)
    found = fresh_field(area, 15, 15, margin, taken, beside)
    if found is not None:
        assert area.contains(found, tolerance=1e-4)
        assert not any(found.grown(margin).overlaps(other, tolerance=1e-4) for other in taken)
        return
    for y in range(0, 86, 5):
        for x in range(0, 86, 5):
            candidate = Rectangle(y=y, x=x, height=15, width=15).grown(margin)
            assert any(candidate.overlaps(other, tolerance=1e-4) for other in taken)


def test_the_rim_is_that_of_the_widest_probe_of_all_apertures_that_may_be_chosen() -> None:
    offered = description(apertures=tuple(Aperture(semiangle=a) for a in (10.0, 21.4, 40.0)))
    margins = [
        plan_layout(offered, config(search={"defocus": (0, 300), "semiangle": angles})).margin
        for angles in ([10.0], None, [10.0, 21.4, 40.0])
    ]
    assert margins[0] < margins[1] < margins[2]
    assert margins[2] > 1e-3 * 40.0 * 300
    # At 700 Å the window holds the probe of the smaller ones only, which does not make the campaign impossible.
    far = {"defocus": (700, 800), "semiangle": "auto"}
    assert plan_layout(offered, config(search=far)).margin == pytest.approx(
        plan_layout(offered, config(search=far | {"semiangle": [10.0, 21.4]})).margin
    )
