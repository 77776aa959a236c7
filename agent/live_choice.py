"""What is done with a scan while it runs: the `live` block of a campaign file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from instrument.models import Record


class LiveChoice(Record):
    """Frames are reconstructed as they arrive, in a process of its own that gives way to every other. Results stay the same."""

    stop: bool = Field(
        default=False,
        description="stop an exploratory scan in two passes that can no longer win: its electrons are saved, and the policy "
        "is told the score that it was expected to have (goal best_picture)",
    )
    picture: Literal["auto"] | bool = Field(
        default="auto",
        description="reconstruct a scan while it runs, from its first tenth on, for whoever watches; auto: where there are two "
        "cores or more and reconstruction processes are not shared",
    )


class StoppedScan(Record):
    """Why a scan was stopped while it ran, and what that saved."""

    part: float = Field(gt=0, lt=1, description="of the scan, that it was judged by")
    expected: float = Field(description="score of the whole acquisition, bit/Å²; it stands as the trial's score")
    expected_sd: float
    rival: int = Field(description="number of the trial that it can no longer win against")
    rival_score: float
    planned: float = Field(description="electrons of the whole scan, with flyback and margins")
    saved: float = Field(description="electrons of these that were not spent")

    def sentence(self) -> str:
        """For a person."""
        return (
            f"stopped after {self.part:.0%} of the scan: {self.expected:.3g} ± {self.expected_sd:.2g} bit/Å² expected of "
            f"all of it, trial {self.rival} has {self.rival_score:.3g}; {self.saved:.3g} electrons were saved"
        )
