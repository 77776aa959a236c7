"""Our client in a facility's control system: EPICS process variables, and an ophyd-async device for bluesky plans."""
