"""The examples in the docstrings of numbers and topics are true."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

import agent.formatting
import agent.status.broker
import agent.status.contract


@pytest.mark.parametrize(
    "module", [agent.formatting, agent.status.broker, agent.status.contract], ids=lambda m: m.__name__
)
def test_examples(module: ModuleType) -> None:
    tested = doctest.testmod(module)
    assert tested.attempted > 0
    assert tested.failed == 0
