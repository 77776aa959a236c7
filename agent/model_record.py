"""How much a reconstruction may explain: what held-out counts have chosen, and what it was chosen by."""

from __future__ import annotations

from pydantic import Field

from agent.formatting import uncertain
from instrument.models import Record

Value = bool | int | float | str | tuple[float, ...] | None


class AskedPart(Record):
    """A part of the model that the counts were asked for."""

    part: str = Field(description="such as slices, background, positions")
    label: str = Field(description="in words, such as `2 slices 30 Å apart`")
    gain: float = Field(description="by how much the deviance of held-out counts falls with it, per detector pixel")
    sd: float = Field(description="standard deviation of `gain`")
    taken: bool = Field(description="whether it is part of the model")

    def text(self) -> str:
        """In words, with the difference that decided."""
        change = uncertain(-1e4 * self.gain, 1e4 * self.sd, 0).replace("-", "−")
        return f"{'' if self.taken else 'not '}{self.label} ({change})"


class ChosenModel(Record):
    """Parts of the model as held-out counts have chosen them, and the acquisition that told."""

    settings: dict[str, Value] = Field(description="of the reconstruction, that were chosen")
    data: dict[str, float] = Field(
        default_factory=dict,
        description="what else the data are taken to be: `point_spread`, pixels; `position_jitter`, Å",
    )
    asked: tuple[AskedPart, ...] = Field(default=(), description="parts, those taken first")
    dose: float = Field(gt=0, description="of the acquisition that told, e/Å²")
    defocus: float = Field(description="its nominal defocus, Å")
    looks: int = Field(default=1, ge=1, description="acquisitions of the campaign that were asked so far")
    seconds: float = Field(default=0.0, ge=0, description="that the question took")

    def sentence(self) -> str:
        """One line for a person."""
        if not self.asked:
            return "model: as given, nothing was left to choose"
        parts = ", ".join(part.text() for part in self.asked)
        return f"model chosen by held-out counts (change of their deviance, 10⁻⁴ a pixel): {parts}"
