"""The loop: what is acquired next, where, with which electrons, until the final picture is on disk."""
