"""All promises, one after the other, and what is printed of them."""

from __future__ import annotations

import asyncio

from instrument.conformance import checking, describing, scanning, served
from instrument.conformance.trial import BrokenPromiseError, Finding, NotOfferedError, Promise, Trial
from instrument.errors import BadInputError
from instrument.microscope import Microscope
from instrument.text import printable

PROMISES: tuple[Promise, ...] = (
    *describing.PROMISES,
    *checking.PROMISES,
    *(each for each in served.PROMISES if not each.beam),
    *scanning.PROMISES,
    *(each for each in served.PROMISES if each.beam),
)
"""Those that expose nothing come first."""


async def try_promises(
    microscope: Microscope, *, dose: float | None = None, beam: bool = True, only: str = ""
) -> list[Finding]:
    """Try all promises, one after the other.

    Args:
        microscope: blanked, and used by nobody else.
        dose: e/Å² of the scans; None: as low as is legal.
        beam: False tries only what exposes nothing.
        only: tries those that have this phrase in them.

    Returns:
        What was found, in the order of PROMISES.

    Raises:
        BadInputError: the description does not allow `dose`, or no promise has that phrase.
    """
    return (await _try(microscope, dose, beam=beam, only=only))[0]


async def _try(microscope: Microscope, dose: float | None, *, beam: bool, only: str) -> tuple[list[Finding], float]:
    promises = [each for each in PROMISES if only in each.name]
    if not promises:
        msg = f"no promise has the phrase {only!r} in it; legal: part of any line that is printed without --only"
        raise BadInputError(msg)
    microscope.blank()
    trial = Trial(microscope, await microscope.describe(), dose)
    if dose is not None:
        _require_possible(trial, dose)
    found: list[Finding] = []
    for promise in promises:
        if promise.beam and not beam:
            found.append(Finding(promise.name, skipped="the beam stays off"))
            continue
        try:
            found.append(await _find(promise, trial))
        finally:
            microscope.blank()
    return found, trial.electrons


async def _find(promise: Promise, trial: Trial) -> Finding:
    try:
        await promise.attempt(trial)
    except NotOfferedError as reason:
        return Finding(promise.name, skipped=str(reason))
    except BrokenPromiseError as error:
        return Finding(promise.name, str(error))
    except Exception as error:
        return Finding(promise.name, f"{type(error).__name__}: {error}")
    return Finding(promise.name)


def _require_possible(trial: Trial, dose: float) -> None:
    try:
        trial.plan()
    except BrokenPromiseError:
        told = trial.description
        msg = (
            f"a dose of {dose:g} {told.dose_unit} is not possible here; legal: {told.dose.legal()}, with "
            f"{told.electrons_per_pattern[0]:g} … {told.electrons_per_pattern[1]:g} electrons in a pattern; change --dose"
        )
        raise BadInputError(msg) from None


def main(microscope: Microscope, dose: float | None = None, *, beam: bool = True, only: str = "") -> int:
    """Try all promises and print what was found, a line each.

    Args:
        microscope: to be tried.
        dose: e/Å² of the scans; None: as low as is legal.
        beam: False tries only what exposes nothing.
        only: tries those that have this phrase in them.

    Returns:
        The exit code: 0 where all were kept, 1 otherwise.
    """
    found, electrons = asyncio.run(_try(microscope, dose, beam=beam, only=only))
    for each in found:
        if each.failure:
            print(f"FAILED  {each.promise}: {printable(each.failure)}")
        elif each.skipped:
            print(f"-       {each.promise}: not tried, {printable(each.skipped)}")
        else:
            print(f"ok      {each.promise}")
    failed, skipped = (sum(bool(getattr(each, what)) for each in found) for what in ("failure", "skipped"))
    exposed = f"at most {electrons:.4g} electrons were exposed" if electrons else "nothing was exposed"
    print(f"{len(found) - failed - skipped} kept, {failed} broken, {skipped} not tried; {exposed}")
    return int(failed > 0)
