"""Patterns to object: `reconstruct(DiffractionData, ReconstructionSettings) -> Reconstruction`, over arrays only."""

from agent.reconstruction.engine import Reconstructor, reconstruct
from agent.reconstruction.types import DiffractionData, Reconstruction, ReconstructionSettings

__all__ = ["DiffractionData", "Reconstruction", "ReconstructionSettings", "Reconstructor", "reconstruct"]
