"""From an acquisition file to a score and a reconstruction file: the work of the child process."""

from agent.processing.process import process

__all__ = ["process"]
