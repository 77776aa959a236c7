"""What was left out of the patterns, masked and found in them."""

from __future__ import annotations

from pydantic import Field

from instrument.models import Record


class Cleaning(Record):
    """What was found in the patterns as they came, and done about it, before anything was measured."""

    patterns: int = Field(ge=0, description="that arrived")
    missing: int = Field(default=0, ge=0, description="patterns that were asked for and never arrived")
    empty: int = Field(default=0, ge=0, description="patterns left out: without counts, as after an abort")
    saturated: int = Field(default=0, ge=0, description="patterns left out: the detector was full")
    partial: int = Field(default=0, ge=0, description="patterns left out: parts of the detector were not read")
    dead_pixels: int = Field(default=0, ge=0, description="masked: known to be bad, or counting too little")
    hot_pixels: int = Field(default=0, ge=0, description="masked: counting too much, always the same, or in bursts")
    intensity_sd: float | None = Field(
        default=None,
        description="of the beam from pattern to pattern, relative, undone; None: as steady as counts tell",
    )
    descan: tuple[float, float] | None = Field(
        default=None,
        description="(row, column) detector pixels by which the zero beam moved over the scan, led back; None: none was found",
    )
    descan_sd: float | None = Field(default=None, description="standard deviation of `descan`, pixels")
    counts_per_electron: float | None = Field(
        default=None, description="from how much counts scatter; 1 ± 0.1 is one; None: too few counts to tell"
    )

    def sentences(self) -> tuple[str, ...]:
        """What a person should know, one sentence each; nothing where there is nothing to say."""
        left_out = {"empty": self.empty, "saturated": self.saturated, "partial": self.partial}
        told = []
        if any(left_out.values()):
            kinds = ", ".join(f"{number} {kind}" for kind, number in left_out.items() if number)
            told.append(f"of {self.patterns} patterns {sum(left_out.values())} are left out: {kinds}")
        if self.dead_pixels + self.hot_pixels:
            told.append(f"masked pixels: {self.dead_pixels} dead, {self.hot_pixels} hot")
        if self.intensity_sd is not None:
            told.append(f"the beam's intensity varied by {self.intensity_sd:.2g} (sd, relative); this is undone")
        if self.descan is not None:
            row, column = self.descan
            told.append(
                f"the zero beam moved by {row:.2g} × {column:.2g} detector pixels over the scan (descan); it is led back, "
                "which blurs patterns by half a pixel"
            )
        return tuple(told)
