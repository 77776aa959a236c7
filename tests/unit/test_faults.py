"""The table of faults names tests that there are."""

from __future__ import annotations

import faults
import pytest


def test_the_table_has_every_fault_of_the_list():
    assert len(faults.FAULTS) == len({fault.name for fault in faults.FAULTS}) == 28
    assert all(fault.alarm for fault in faults.FAULTS), "a person sees each of them"
    assert "28  two campaigns" in faults.table()


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_is_said_to_be_shown_by_is_a_test(fault: faults.Fault):
    named = {each for each in fault[1:] if each not in ("", faults.OPEN)}
    assert named <= faults.tests().keys()
