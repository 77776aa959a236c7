"""Patterns as they come, made ready: what is none is left out, bad pixels are masked, beam and descan are followed."""

from agent.processing.cleaning.clean import Cleaned, Raster, clean

__all__ = ["Cleaned", "Raster", "clean"]
