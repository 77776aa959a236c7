"""What is known of a column, and the file that carries it from one acquisition to the next."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.model_record import ChosenModel
from agent.records import Optics
from agent.storage.atomic import atomic_write
from instrument import optics


@dataclass(frozen=True)
class ColumnState:
    """What is known of the column.

    Attributes:
        centre: (row, column) of the zero beam, pixels.
        matrix: (2, 2) from the detector's axes to the scan's.
        defocus_offset: measured minus nominal, Å, of the last acquisition.
        aberrations: besides defocus, Krivanek polar, Å and rad.
        aperture: whether a round, even disc or the measured one explains the counts better.
        sd: standard deviations of what was measured, named as in `Optics.sd`; that of the defocus is of the last acquisition.
        handedness: by how many standard deviations this hand explains the counts better than the other; None: it was not
            measured, the instrument says it.
        source_size: FWHM of the source's image on the specimen, Å.
        focal_spread: standard deviation of the defocus, Å.
        widths: standard deviation of each parameter of `reconstruction.parameters` that was measured.
        counts: that `widths` were measured from; 0: nobody has noted them.
        semiangle: of the aperture that `centre` was measured with, mrad; None: nobody has noted it.
        model: how much reconstructions may explain, as held-out counts have told; None: they were not asked.
    """

    centre: tuple[float, float]
    matrix: NDArray[np.float64]
    defocus_offset: float
    aberrations: dict[str, float] = field(default_factory=dict)
    aperture: Literal["round", "measured"] = "round"
    sd: dict[str, float] = field(default_factory=dict)
    handedness: float | None = None
    source_size: float = 0.0
    focal_spread: float = 0.0
    widths: dict[str, float] = field(default_factory=dict)
    counts: float = 0.0
    semiangle: float | None = None
    model: ChosenModel | None = None

    def optics_at(self, defocus: float) -> Optics:
        """The optics of an acquisition.

        Args:
            defocus: that it was reconstructed with, Å.
        """
        rotation, mirrored = optics.rotation_and_hand(self.matrix)
        return Optics(
            defocus=defocus,
            rotation=rotation,
            mirrored=mirrored,
            centre=self.centre,
            aberrations=self.aberrations,
            sd=self.sd,
            handedness=self.handedness,
            source_size=self.source_size,
            focal_spread=self.focal_spread,
        )

    def save(self, path: Path) -> None:
        """Write as JSON, in one step."""
        content = {
            "centre": list(self.centre),
            "detector_to_scan": self.matrix.tolist(),
            "defocus_offset_A": self.defocus_offset,
            "aberrations": self.aberrations,
            "aperture": self.aperture,
            "standard_deviations": self.sd,
            "handedness_sd": self.handedness,
            "source_size_A": self.source_size,
            "focal_spread_A": self.focal_spread,
            "widths": self.widths,
            "counts": self.counts,
            "semiangle_mrad": self.semiangle,
            "model": None if self.model is None else self.model.model_dump(mode="json"),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: Path) -> ColumnState:
        """Read what `save` wrote.

        Raises:
            BadInputError: there is no such file, or it holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                centre=(float(content["centre"][0]), float(content["centre"][1])),
                matrix=np.asarray(content["detector_to_scan"], dtype=np.float64),
                defocus_offset=float(content["defocus_offset_A"]),
                aberrations={str(k): float(v) for k, v in content["aberrations"].items()},
                aperture="measured" if content["aperture"] == "measured" else "round",
                sd={str(k): float(v) for k, v in content.get("standard_deviations", {}).items()},
                handedness=content.get("handedness_sd"),
                source_size=float(content.get("source_size_A", 0.0)),
                focal_spread=float(content.get("focal_spread_A", 0.0)),
                widths={str(k): float(v) for k, v in content.get("widths", {}).items()},
                counts=float(content.get("counts", 0.0)),
                semiangle=None if content.get("semiangle_mrad") is None else float(content["semiangle_mrad"]),
                model=None if content.get("model") is None else ChosenModel.model_validate(content["model"]),
            )
        except (OSError, ValueError, KeyError, IndexError) as error:
            msg = f"{path}: not a column state file ({error})"
            raise BadInputError(msg) from error
