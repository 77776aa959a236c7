"""What every record is made of: frozen values, names, and rectangles on the specimen."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Record(BaseModel):
    """A frozen value; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_wire(cls, raw: Any) -> Self:
        """Read what the other side has said. It may be of a later minor version, so fields that nobody here knows are left out.

        Args:
            raw: JSON values.
        """
        return cls.model_validate(raw, extra="ignore")


class Rectangle(Record):
    """An axis-parallel rectangle in the specimen frame: corner (y, x) and size, Å."""

    y: float
    x: float
    height: Annotated[float, Field(gt=0)]
    width: Annotated[float, Field(gt=0)]

    @property
    def area(self) -> float:
        """Å²."""
        return self.height * self.width

    def grown(self, margin: float) -> Rectangle:
        """The same rectangle with a margin on each side.

        Args:
            margin: Å.
        """
        return Rectangle(
            y=self.y - margin, x=self.x - margin, height=self.height + 2 * margin, width=self.width + 2 * margin
        )

    def contains(self, other: Rectangle, tolerance: float = 1e-6) -> bool:
        """Whether another rectangle lies inside.

        Args:
            other: specimen frame, Å.
            tolerance: by how much it may stick out, Å.
        """
        return (
            other.y >= self.y - tolerance
            and other.x >= self.x - tolerance
            and other.y + other.height <= self.y + self.height + tolerance
            and other.x + other.width <= self.x + self.width + tolerance
        )

    def overlaps(self, other: Rectangle, tolerance: float = 1e-6) -> bool:
        """Whether two rectangles share more than an edge.

        Args:
            other: specimen frame, Å.
            tolerance: width of an overlap that does not count, Å.
        """
        return (
            self.y + tolerance < other.y + other.height
            and other.y + tolerance < self.y + self.height
            and self.x + tolerance < other.x + other.width
            and other.x + tolerance < self.x + self.width
        )
