"""An ophyd-async device for bluesky plans, made of the process variables of `epics`. Needs `ophyd-async[pva]`.

`yield from bps.mv(device.step, 1.2, device.defocus, 200)` and `yield from bps.trigger_and_read([device])` are a step of a
campaign. A setting that is not legal, or an acquisition that fails, is the failure of its status, with the sentence that
says why.
"""

from __future__ import annotations

from instrument.errors import BadInputError
from instrument.facility.epics import VARIABLES

try:
    from ophyd_async.core import AsyncStatus, StandardReadable
    from ophyd_async.epics.core import epics_signal_r, epics_signal_rw
except ImportError as error:
    msg = "the package ophyd-async is missing: pip install 'ptychopilot[facility]'"
    raise BadInputError(msg) from error


class PtychographyStep(StandardReadable):
    """One campaign's acquisitions: settings to be moved, and `trigger`, which exposes.

    Args:
        prefix: of the process variables, "PTYCHO:".
        longest: s for an acquisition, at most.
        name: of the device, in documents.

    Attributes:
        field_y, field_x, field_height, field_width, step, defocus: Å.
        dose: e/Å².
        acquisition, frames, electrons, electrons_left, counts: of the last acquisition.
        acquire, blank: put 1.
    """

    def __init__(self, prefix: str, *, longest: float = 600.0, name: str = "ptychography") -> None:
        self._longest = longest
        with self.add_children_as_readables():
            for variable in VARIABLES.values():
                setattr(self, _attribute(variable), epics_signal_rw(float, f"pva://{prefix}{variable}"))
            self.acquisition = epics_signal_r(str, f"pva://{prefix}Acquisition")
            self.frames = epics_signal_r(int, f"pva://{prefix}Frames")
            for variable in ("Electrons", "ElectronsLeft", "Counts"):
                setattr(self, _attribute(variable), epics_signal_r(float, f"pva://{prefix}{variable}"))
        self.acquire = epics_signal_rw(int, f"pva://{prefix}Acquire")
        self.blank = epics_signal_rw(int, f"pva://{prefix}Blank")
        super().__init__(name=name)

    def trigger(self) -> AsyncStatus:
        """Expose with the settings as they are."""
        return AsyncStatus(self._trigger())

    async def _trigger(self) -> None:
        await self.acquire.set(1, timeout=self._longest)


def _attribute(variable: str) -> str:
    """FieldY -> field_y."""
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in variable).lstrip("_")
