# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated beam as a file, "on" or "off": others can see it, and a watchdog can turn it off from outside.

`python -m sim_instrument simulate --beam-file FILE --watchdog sim_instrument.beam_file:blank`.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PTYCHOPILOT_BEAM_FILE"
"""Environment variable that tells a watchdog where the file is."""


class BeamFile:
    """The state of the beam, kept in a file.

    Args:
        path: of the file; made if missing, beam off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(on=False)

    def set(self, *, on: bool) -> None:
        """Turn the beam on or off."""
        self._path.write_text("on\n" if on else "off\n", encoding="ascii")

    def turned_off(self) -> bool:
        """Whether somebody has turned the beam off."""
        return self._path.read_text(encoding="ascii").strip() != "on"


def blank() -> None:
    """Turn the beam off in the file that the environment names: what a watchdog calls."""
    BeamFile(Path(os.environ[VARIABLE]))
