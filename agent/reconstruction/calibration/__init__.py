"""The geometry and optics of a scan, found from its patterns."""
