"""What a person knows of the detector's geometry, as campaign files and options say it."""

from __future__ import annotations

from pydantic import Field

from agent.encoding import WholePath
from instrument.errors import BadInputError
from instrument.geometry import Geometry
from instrument.models import Description


class KnownGeometry(Geometry):
    """What is known beforehand of the detector, and need not be measured; it comes before what the instrument says."""

    mask: WholePath | None = Field(default=None, description=Geometry.model_fields["mask"].description)
    centre: tuple[float, float] | None = Field(
        default=None, description="(row, column) of the zero beam, detector pixels; None: that of the bright-field disc"
    )

    def applied(self, description: Description) -> Description:
        """See Geometry. Raises BadInputError also where the centre lies beyond the detector."""
        n_y, n_x = description.detector.shape
        if self.centre is not None and not (0 <= self.centre[0] <= n_y - 1 and 0 <= self.centre[1] <= n_x - 1):
            row, column = self.centre
            msg = f"the centre ({row:g}, {column:g}) lies outside the detector; legal: (0 … {n_y - 1}, 0 … {n_x - 1}) pixels"
            raise BadInputError(msg)
        return super().applied(description)
