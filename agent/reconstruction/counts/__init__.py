"""Counted patterns in memory or on disk: read in parts, laid out, thinned."""
