"""On which terms the owner lends an instrument: limits narrower than the adapter's own, and runs with the beam blanked.

The adapter's description is asked for here and nowhere else in the server, so that what an agent is told, what its plans are
compared with and what is set are always the narrowed one.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from instrument.errors import BadInputError, InstrumentError
from instrument.limits import check_cost, check_limits, needs_beam_stop
from instrument.microscope import Microscope, ReadsBack
from instrument.models import (
    LONGEST_WALK,
    AcquisitionPlan,
    Aperture,
    BeamStop,
    Description,
    Parameter,
    PlanCheck,
    Record,
    Rectangle,
    Slew,
)

LIMITS_HELP = "TOML file with limits that are narrower than the microscope's own (instrument/README.md says which)"
DRY_RUN_HELP = "keep the beam blanked, whatever is asked for: all acquisitions are dry runs that cost no electrons"
DRY_RUN_NOTE = "dry run: the owner of the instrument keeps the beam blanked, and the patterns are made up"

Range = tuple[float, float]
_CEILINGS = ("exposure_limit", "region_dose_limit")


class OwnersLimits(Record):
    """What an owner may narrow; what is left out stays as the adapter says. Å, e/Å², electrons."""

    step: Range | None = None
    defocus: Range | None = None
    dose: Range | None = None
    electrons_per_pattern: Range | None = None
    area: Rectangle | None = None
    exposure_limit: float | None = Field(default=None, gt=0)
    region_dose_limit: float | None = Field(default=None, gt=0)
    count_rate_limit: float | None = Field(default=None, gt=0)
    beam_stop_above: float | None = Field(default=None, gt=0)
    semiangle: Range | None = None
    slews: dict[str, Slew] = Field(default={})

    @classmethod
    def read(cls, path: Path) -> OwnersLimits:
        """Read a TOML file. Raises BadInputError with the key that is wrong.

        Args:
            path: of the file.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror}); --limits takes a TOML file"
            raise BadInputError(msg) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "file"
            msg = f"{path}: {key}: {first['msg']}; legal: {', '.join(cls.model_fields)}, each narrower than the microscope's"
            raise BadInputError(msg) from error
        except ValueError as error:
            msg = f"{path}: is not a TOML file ({error})"
            raise BadInputError(msg) from error

    def wider(self, told: Description) -> str:
        """What is not narrower than the microscope's own, as a sentence; "" where all is.

        Args:
            told: description of the adapter.
        """
        for name in ("step", "defocus", "dose"):
            own: Parameter = getattr(told, name)
            if (wanted := getattr(self, name)) is not None and not _inside(wanted, own.bounds):
                return f"{name} of {_shown(wanted)} {own.unit} is not narrower than the microscope's: {own.legal()}"
            if wanted is not None and _narrowed(own, wanted) is None:
                return f"{name} of {_shown(wanted)} {own.unit} leaves none of the microscope's values: {own.legal()}"
        if (per_pattern := self.electrons_per_pattern) is not None:
            if not _inside(per_pattern, told.electrons_per_pattern):
                own_range = _shown(told.electrons_per_pattern)
                return (
                    f"electrons_per_pattern of {_shown(per_pattern)} is not narrower than the microscope's: {own_range}"
                )
            if told.electrons_per_pattern_values is not None and not _kept(told, per_pattern):
                return f"electrons_per_pattern of {_shown(per_pattern)} leaves none of the microscope's dwell times"
        if self.area is not None and not told.area.contains(self.area):
            return f"area {self.area!r} leaves the microscope's, {told.area!r}"
        return self._wider_apertures(told) or self._wider_ceilings(told) or self._wider_slews(told)

    def _wider_apertures(self, told: Description) -> str:
        if self.semiangle is None:
            return ""
        if not told.apertures:
            return "semiangle needs several apertures, and this microscope offers none"
        if not _inside((told.semiangle, told.semiangle), self.semiangle):
            return (
                f"semiangle of {_shown(self.semiangle)} mrad leaves out the present aperture of {told.semiangle:g} mrad"
            )
        return ""

    def _wider_ceilings(self, told: Description) -> str:
        ceilings = {name: getattr(told, name) for name in _CEILINGS}
        ceilings["count_rate_limit"] = told.detector.count_rate_limit
        ceilings["beam_stop_above"] = None if told.beam_stop is None else told.beam_stop.needed_above
        if self.beam_stop_above is not None and told.beam_stop is None:
            return "beam_stop_above needs a beam stop, and this microscope has none"
        for name, own in ceilings.items():
            wanted = getattr(self, name)
            if wanted is not None and own is not None and wanted > own:
                return f"{name} of {wanted:g} is higher than the microscope's, {own:g}"
        return ""

    def _wider_slews(self, told: Description) -> str:
        for name, slew in self.slews.items():
            own = told.slews.get(name, Slew())
            for what, faster in (("step", 1), ("rate", 1), ("settle", -1)):
                wanted, most = getattr(slew, what), getattr(own, what)
                if wanted is not None and most is not None and faster * wanted > faster * most:
                    return f"slews.{name}.{what} of {wanted:g} is faster than the microscope's, {most:g}"
        return ""

    def narrowed(self, told: Description) -> Description:
        """The description with these limits; where it has become narrower by itself meanwhile, what both allow.

        Args:
            told: description of the adapter.
        """
        changes: dict[str, Any] = {}
        for name in ("step", "defocus", "dose"):
            if (wanted := getattr(self, name)) is not None:
                changes[name] = _narrowed(getattr(told, name), wanted) or getattr(told, name)
        if (per_pattern := self.electrons_per_pattern) is not None:
            low, high = told.electrons_per_pattern
            changes["electrons_per_pattern"] = (max(low, per_pattern[0]), min(high, per_pattern[1]))
            if told.electrons_per_pattern_values is not None:
                changes["electrons_per_pattern_values"] = (
                    _kept(told, per_pattern) or told.electrons_per_pattern_values[:1]
                )
        if self.area is not None and told.area.contains(self.area):
            changes["area"] = self.area
        for name in _CEILINGS:
            changes[name] = _lower(getattr(self, name), getattr(told, name))
        rate = _lower(self.count_rate_limit, told.detector.count_rate_limit)
        changes["detector"] = told.detector.model_copy(update={"count_rate_limit": rate})
        if told.beam_stop is not None:
            above = _lower(self.beam_stop_above, told.beam_stop.needed_above)
            changes["beam_stop"] = BeamStop(needed_above=above or told.beam_stop.needed_above)
        changes["apertures"] = self._narrowed_apertures(told)
        changes["slews"] = told.slews | {
            name: _slower(slew, told.slews.get(name, Slew())) for name, slew in self.slews.items()
        }
        return told.model_copy(update=changes)

    def _narrowed_apertures(self, told: Description) -> tuple[Aperture, ...]:
        """Those within `semiangle` that have legal electrons per pattern left; limits of electrons hold with each of them."""
        kept = []
        for each in told.apertures:
            if self.semiangle is not None and not _inside((each.semiangle, each.semiangle), self.semiangle):
                continue
            if self.electrons_per_pattern is not None:
                behind = told.through(each.semiangle)
                low, high = behind.electrons_per_pattern
                low, high = max(low, self.electrons_per_pattern[0]), min(high, self.electrons_per_pattern[1])
                if low > high or (behind.electrons_per_pattern_values is not None and not _kept(behind, (low, high))):
                    continue
                each = each.model_copy(update={"electrons_per_pattern": (low, high)})
            kept.append(each)
        return tuple(kept)


@dataclass(frozen=True)
class Terms:
    """How one server lends its microscope.

    Attributes:
        microscope: any.
        limits: of the owner; None: the adapter's own.
        dry_run: whether the beam stays blanked in all acquisitions.
    """

    microscope: Microscope
    limits: OwnersLimits | None = None
    dry_run: bool = False

    async def describe(self) -> Description:
        """What the microscope offers on these terms."""
        told = await self.microscope.describe()
        narrowed = told if self.limits is None else self.limits.narrowed(told)
        if not self.dry_run:
            return narrowed
        return narrowed.model_copy(update={"notes": (*narrowed.notes, DRY_RUN_NOTE)})

    async def require_possible(self) -> Description:
        """The description, once it is sure that the terms can be kept.

        Raises:
            BadInputError: the owner's limits are wider than the adapter's, or the adapter says what nobody can keep to.
        """
        if self.limits is not None and (wider := self.limits.wider(await self.microscope.describe())):
            msg = f"the owner's limits can only be narrower than the microscope's: {wider}"
            raise BadInputError(msg)
        told = await self.describe()
        if wrong := await unkept(self.microscope, told):
            raise BadInputError(wrong)
        return told

    async def verify(self, plan: AcquisitionPlan) -> tuple[PlanCheck, Description]:
        """What a plan costs on these terms, and the description that it was compared with.

        Args:
            plan: of an agent.

        Raises:
            OutOfLimitsError: it cannot be exposed; with the value and what is legal.
        """
        description = await self.describe()
        check_limits(plan, description)
        check = await self.microscope.check(plan)
        if check.n_positions != plan.n_positions:
            msg = f"the microscope counts {check.n_positions} positions in a plan of {plan.n_positions}"
            raise InstrumentError(msg)
        check_cost(plan, check, description)
        dry = plan.dry or self.dry_run
        stop = description.beam_stop is not None and (dry or needs_beam_stop(plan, check, description))
        if dry or stop:
            electrons = 0.0 if dry else check.electrons
            check = check.model_copy(update={"dry": dry, "beam_stop": stop, "electrons": electrons})
        return check, description


async def unkept(microscope: Microscope, told: Description) -> str:
    """What a description says of slews, beam stop and apertures that the server cannot see to, as a sentence; "" where it can.

    Args:
        microscope: any.
        told: its description, or a narrower one.
    """
    driven = [
        *told.slews,
        *(["beam_stop"] if told.beam_stop is not None else []),
        *(["semiangle"] if told.apertures else []),
    ]
    if not driven:
        return ""
    if not isinstance(microscope, ReadsBack):
        return (
            f"{told.name}: {', '.join(driven)} cannot be seen to, because the adapter has no set and read_back; give it both "
            "(instrument.microscope.ReadsBack), or leave slews, beam_stop and apertures out of its description"
        )
    known = await microscope.read_back()
    if missing := [name for name in driven if name not in known]:
        return f"{told.name}: read_back does not tell {', '.join(missing)}, which has a slew, is the beam stop or the aperture"
    if wrong := _unconfirmed_aperture(told):
        return wrong
    low, high = told.defocus.bounds
    if "defocus" in told.slews and (seconds := told.slews["defocus"].duration(high - low)) > LONGEST_WALK:
        return (
            f"{told.name}: defocus would take {seconds:.3g} s for its whole range of {low:g} … {high:g} Å; at most "
            f"{LONGEST_WALK:g} s are legal: allow it to change faster, or narrow its range"
        )
    return ""


def _unconfirmed_aperture(told: Description) -> str:
    """Why a description does not let the server tell its apertures apart, as a sentence; "" where it does."""
    if not told.apertures:
        return ""
    if "semiangle" in told.slews:
        return f"{told.name}: semiangle has a slew, but there is nothing between two apertures; leave it out of slews"
    gap = min((b - a for a, b in pairwise(told.semiangles)), default=math.inf)
    if not 0 <= told.tolerances.get("semiangle", math.inf) < gap / 2:
        return (
            f"{told.name}: tolerances do not say by how much semiangle may differ when it is read back; less than "
            f"{gap / 2:.3g} mrad is legal, half the way between two of its apertures"
        )
    return ""


def _inside(wanted: Range, own: Range) -> bool:
    return own[0] - 1e-6 * abs(own[0]) <= wanted[0] <= wanted[1] <= own[1] + 1e-6 * abs(own[1])


def _narrowed(own: Parameter, wanted: Range) -> Parameter | None:
    low, high = wanted
    if own.kind == "continuous":
        both = max(low, own.bounds[0]), min(high, own.bounds[1])
        return None if both[0] > both[1] else own.model_copy(update={"minimum": both[0], "maximum": both[1]})
    values = tuple(each for each in own.values or () if low - 1e-9 <= each <= high + 1e-9)
    return own.model_copy(update={"values": values}) if values else None


def _kept(told: Description, per_pattern: Range) -> tuple[float, ...]:
    low, high = per_pattern
    return tuple(
        each for each in told.electrons_per_pattern_values or () if low * (1 - 1e-9) <= each <= high * (1 + 1e-9)
    )


def _lower(wanted: float | None, own: float | None) -> float | None:
    least = min(math.inf if wanted is None else wanted, math.inf if own is None else own)
    return None if math.isinf(least) else least


def _slower(wanted: Slew, own: Slew) -> Slew:
    return Slew(
        step=_lower(wanted.step, own.step), rate=_lower(wanted.rate, own.rate), settle=max(wanted.settle, own.settle)
    )


def _shown(pair: Range) -> str:
    return f"{pair[0]:g} … {pair[1]:g}"
