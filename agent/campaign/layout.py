"""Where on the specimen everything happens: the area of interest, fresh exploration regions beside it, the scored square.

A region counts as exposed wherever the tails of the probe reach, not only where the scan points lie. So regions keep a
margin of the widest probe that the campaign may choose, and no illuminated rectangle overlaps another, or anything
exposed before by any campaign. On a repeatable instrument (a recording) every trial uses the middle of the area of
interest itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from agent.config import CampaignConfig, expert_semiangle
from agent.errors import BadInputError
from agent.records import CampaignLayout
from instrument import optics
from instrument.models import Description, Rectangle

SCORED_FRACTION = 0.75
"""Edge of the scored square relative to the shorter edge of a trial's field, where the campaign file says nothing."""
_TOLERANCE = 1e-5
"""Å; two rectangles that share no more than this do not overlap."""


def defocus_range(description: Description, config: CampaignConfig) -> tuple[float, float]:
    """Legal nominal defocus: what instrument, campaign and the window 1/Δk of one pattern allow together.

    Args:
        description: of the instrument.
        config: of the campaign; `search.defocus` and `search.window` narrow the range.

    Returns:
        (lowest, highest), Å.

    Raises:
        BadInputError: the three have nothing in common.
    """
    low, high = description.defocus.bounds
    if description.defocus.kind == "fixed":
        return low, high
    widest = config.search.largest_defocus(description)
    wanted = config.search.defocus or (low, high)
    legal = max(low, wanted[0], -widest), min(high, wanted[1], widest)
    if legal[0] > legal[1]:
        msg = (
            f"search.defocus: {wanted[0]:g} … {wanted[1]:g} Å has nothing in common with what the instrument offers "
            f"({description.defocus.legal()}) and the window of the detector holds (|defocus| up to {widest:.0f} Å)"
        )
        raise BadInputError(msg)
    return legal


def illumination_margin(description: Description, config: CampaignConfig) -> float:
    """The rim around a field that the widest probe of the campaign can reach.

    Geometric radius α|Δf| (at least the diffraction limit) plus one diffraction-limited radius for the tails, with the aperture
    of which that is most.

    Args:
        description: of the instrument.
        config: of the campaign; the expert's defocus counts as well.

    Returns:
        Its width, Å.

    Raises:
        BadInputError: the expert's probe is wider than one pattern's window, so that nothing could be made of the scan.
    """
    reached = [(each, max(map(abs, defocus_range(each, config)))) for each in apertures_in_reach(description, config)]
    if config.expert is not None:
        reached.append((_of_expert(description, config), abs(config.expert[1])))
    return max(
        0.5
        * (
            optics.probe_diameter(each.semiangle, defocus, each.voltage)
            + optics.probe_diameter(each.semiangle, 0.0, each.voltage)
        )
        for each, defocus in reached
    )


def apertures_in_reach(description: Description, config: CampaignConfig) -> list[Description]:
    """The instrument with each aperture of the search with which some defocus is legal, ascending.

    Args:
        description: of the instrument.
        config: of the campaign.

    Raises:
        BadInputError: with none there is.
    """
    found, refused = [], None
    for each in config.search.through(description):
        try:
            defocus_range(each, config)
        except BadInputError as error:
            refused = refused or error
        else:
            found.append(each)
    if refused is not None and not found:
        raise refused
    return found


def _of_expert(description: Description, config: CampaignConfig) -> Description:
    """The instrument with the expert's aperture. Raises BadInputError where the probe is wider than one pattern's window."""
    assert config.expert is not None
    description = description.through(expert_semiangle(description, config))
    widest = optics.largest_defocus(description.semiangle, description.detector.angular_pixel, description.voltage)
    if abs(config.expert[1]) > widest:
        msg = (
            f"expert: at a defocus of {config.expert[1]:g} Å the probe is wider than the window of a pattern; "
            f"legal with this detector: up to ±{widest:.4g} Å"
        )
        raise BadInputError(msg)
    return description


def area_of_interest(description: Description, config: CampaignConfig) -> Rectangle:
    """Where the final picture is taken; in the middle of what can be scanned unless the campaign says where.

    Args:
        description: of the instrument.
        config: of the campaign.

    Returns:
        The area of interest, specimen frame, Å.

    Raises:
        BadInputError: it does not fit into what can be scanned.
    """
    wanted, area = config.area, description.area
    rectangle = Rectangle(
        y=wanted.y if wanted.y is not None else area.y + (area.height - wanted.height) / 2,
        x=wanted.x if wanted.x is not None else area.x + (area.width - wanted.width) / 2,
        height=wanted.height,
        width=wanted.width,
    )
    if not area.contains(rectangle):
        msg = f"area: {_text(rectangle)} lies outside what {description.name} can scan, {_text(area)}"
        raise BadInputError(msg)
    return rectangle


def plan_layout(description: Description, config: CampaignConfig, exposed: Sequence[Rectangle] = ()) -> CampaignLayout:
    """Place everything the campaign needs at its start.

    Args:
        description: of the instrument.
        config: of the campaign.
        exposed: illuminated rectangles of the instrument's ledger, whichever campaign they belong to.

    Raises:
        BadInputError: something does not fit; the message has the numbers.
    """
    final = area_of_interest(description, config)
    exploration = config.exploration
    if description.repeatable:
        return _layout_of_recording(final, config)
    margin = illumination_margin(description, config)
    touched = [r for r in exposed if r.overlaps(final.grown(margin))]
    if touched:
        msg = (
            f"area: {_text(final)} with its rim of {margin:.0f} Å overlaps a region that was exposed before, "
            f"{_text(touched[0])}; choose another area, or a fresh specimen"
        )
        raise BadInputError(msg)
    taken = [*exposed, final.grown(margin)]
    expert = None
    if config.expert is not None:
        expert = fresh_field(description.area, final.height, final.width, margin, taken, beside=final)
        if expert is None:
            msg = (
                f"no room for the expert's comparison: a second region of {final.height:g} × {final.width:g} Å plus a rim "
                f"of {margin:.0f} Å does not fit into {_text(description.area)} beside what is exposed; make the area "
                "smaller or leave out `expert`"
            )
            raise BadInputError(msg)
        taken.append(expert.grown(margin))
    fields: list[Rectangle] = []
    for _ in range(exploration.trials):
        field_or_none = fresh_field(
            description.area, exploration.height, exploration.width, margin, taken, beside=final
        )
        if field_or_none is None:
            msg = (
                f"fresh area runs out: {len(fields)} of {exploration.trials} trials of {exploration.height:g} × "
                f"{exploration.width:g} Å fit beside the area of interest with a rim of {margin:.0f} Å for the widest "
                f"probe; lower exploration.trials or the fields, or narrow search.defocus"
            )
            raise BadInputError(msg)
        fields.append(field_or_none)
        taken.append(field_or_none.grown(margin))
    return CampaignLayout(final=final, expert=expert, exploration=tuple(fields), margin=margin)


def _layout_of_recording(final: Rectangle, config: CampaignConfig) -> CampaignLayout:
    """Every trial in the middle of the area of interest. Raises BadInputError where it is larger than that."""
    exploration = config.exploration
    if exploration.height > final.height + 1e-6 or exploration.width > final.width + 1e-6:
        msg = (
            f"exploration: a field of {exploration.height:g} × {exploration.width:g} Å is larger than the area of "
            f"interest, {final.height:g} × {final.width:g} Å; on a recording trials lie inside it"
        )
        raise BadInputError(msg)
    field = centred(final, exploration.height, exploration.width)
    return CampaignLayout(
        final=final,
        expert=final if config.expert is not None else None,
        exploration=(field,) * exploration.trials,
        margin=0.0,
    )


def fresh_field(
    area: Rectangle, height: float, width: float, margin: float, taken: Iterable[Rectangle], beside: Rectangle
) -> Rectangle | None:
    """Find the nearest field whose illuminated rectangle overlaps nothing that is taken.

    Candidates touch the edges of the area or of what is taken (bottom-left packing), so that little area is lost.

    Args:
        area: what can be scanned.
        height: of the field, Å.
        width: of the field, Å.
        margin: width of the rim that is illuminated around the field, Å.
        taken: illuminated rectangles that must not be overlapped.
        beside: the field lies as near to the middle of this as it can.

    Returns:
        The field without its rim; None where none fits.
    """
    obstacles = np.array([(r.y, r.x, r.y + r.height, r.x + r.width) for r in taken], dtype=np.float64).reshape(-1, 4)
    full = np.array([height + 2 * margin, width + 2 * margin])
    low = np.array([area.y, area.x]) - margin
    high = np.array([area.y + area.height, area.x + area.width]) + margin - full
    middle = np.array([beside.y + beside.height / 2, beside.x + beside.width / 2]) - full / 2
    corners = []
    for axis in (0, 1):
        starts, ends = obstacles[:, axis], obstacles[:, axis + 2]
        edges = np.concatenate([[low[axis], high[axis], middle[axis]], starts, ends, starts - full[axis]])
        edges = np.unique(edges.round(6))
        corners.append(edges[(edges >= low[axis] - _TOLERANCE) & (edges <= high[axis] + _TOLERANCE)])
    grid = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 2)
    distance = np.hypot(*(grid - middle).T).round(6)
    for y, x in grid[np.lexsort((grid[:, 1], grid[:, 0], distance))]:
        overlaps = (
            (obstacles[:, 0] + _TOLERANCE < y + full[0])
            & (y + _TOLERANCE < obstacles[:, 2])
            & (obstacles[:, 1] + _TOLERANCE < x + full[1])
            & (x + _TOLERANCE < obstacles[:, 3])
        )
        if not overlaps.any():
            return Rectangle(y=float(y) + margin, x=float(x) + margin, height=height, width=width)
    return None


def scored_edge(config: CampaignConfig) -> float:
    """The square that is scored in every trial.

    Args:
        config: of the campaign.

    Returns:
        Its edge, Å.

    Raises:
        BadInputError: the campaign asks for more than a trial's field.
    """
    shorter = min(config.exploration.height, config.exploration.width)
    edge = config.score.field if config.score.field is not None else SCORED_FRACTION * shorter
    if edge > shorter:
        msg = f"score.field: {edge:g} Å is larger than a trial's field of {shorter:g} Å"
        raise BadInputError(msg)
    return edge


def scored_rectangle(field: Rectangle, config: CampaignConfig) -> Rectangle:
    """The part of `field` that is scored: a trial's square, or the whole interior of a larger field.

    The rim that is left out is as wide in every field as in a trial, so that all fields are judged alike.

    Args:
        field: of an acquisition, Å.
        config: of the campaign.
    """
    edge = scored_edge(config)
    rim = (min(config.exploration.height, config.exploration.width) - edge) / 2
    is_trial = math.isclose(field.height, config.exploration.height) and math.isclose(
        field.width, config.exploration.width
    )
    if is_trial:
        return centred(field, edge, edge)
    return centred(field, max(field.height - 2 * rim, edge), max(field.width - 2 * rim, edge))


def centred(outer: Rectangle, height: float, width: float) -> Rectangle:
    """A rectangle of `height` × `width`, Å, in the middle of `outer`."""
    return Rectangle(
        y=outer.y + (outer.height - height) / 2,
        x=outer.x + (outer.width - width) / 2,
        height=height,
        width=width,
    )


def _text(rectangle: Rectangle) -> str:
    r = rectangle
    return f"y {r.y:g} … {r.y + r.height:g}, x {r.x:g} … {r.x + r.width:g} Å"
