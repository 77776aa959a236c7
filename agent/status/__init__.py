"""Telling the world: progress on the terminal, status on a broker. Watching is not taking part."""
