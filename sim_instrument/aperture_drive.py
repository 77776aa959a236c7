# SPDX-License-Identifier: GPL-3.0-or-later
"""The motor that puts condenser apertures in, and says which one is: see `instrument.microscope.ReadsBack`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from instrument import MalformedRequestError
from instrument.settings import APERTURE
from sim_instrument.column import Column

DEFOCUS = "defocus"


class ApertureDrive:
    """Sets and reads back aperture and defocus. At the beginning the column's own aperture is in.

    Args:
        column: that offers apertures.
    """

    TOLERANCE: ClassVar[float] = 0.01
    """mrad by which the semi-angle that is read back may differ."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._now = {APERTURE: column.semiangle, DEFOCUS: 0.0}

    async def set(self, settings: Mapping[str, float]) -> None:
        """See ReadsBack.

        Args:
            settings: semiangle, mrad, one of the column's; defocus, Å.

        Raises:
            OutOfLimitsError: there is no such aperture.
            MalformedRequestError: there is no such setting.
        """
        if unknown := sorted(set(settings) - set(self._now)):
            msg = f"{unknown[0]} cannot be set here; legal: {', '.join(self._now)}"
            raise MalformedRequestError(msg)
        changed = dict(settings)
        if APERTURE in changed:
            changed[APERTURE] = self._column.through(changed[APERTURE]).semiangle
        self._now |= changed

    async def read_back(self) -> Mapping[str, float]:
        """See ReadsBack."""
        return dict(self._now)
