"""Recorded 4D data sets: one module a format."""
