"""What is done with a scan while it runs: the `live` block of a campaign file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from instrument.models import Record


class LiveChoice(Record):
    """Frames are reconstructed as they arrive, in a process of its own that gives way to every other. Results stay the same."""

    picture: Literal["auto"] | bool = Field(
        default="auto",
        description="reconstruct a scan while it runs, from its first tenth on, for whoever watches; auto: where there are two "
        "cores or more and reconstruction processes are not shared",
    )
