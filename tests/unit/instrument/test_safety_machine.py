"""No sequence of faults of agents, network, clock, column, disk and server makes the instrument break its word."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test
from safety_machine import SafetyMachine, thorough

STEPS = 2000


def test_no_sequence_of_faults_harms_the_specimen():
    run_state_machine_as_test(SafetyMachine, settings=thorough(STEPS))
