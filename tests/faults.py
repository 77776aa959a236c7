"""What may go wrong at an instrument, and which test shows that it does no harm: `make faults` prints the table.

Five invariants hold through every fault: I1 the beam is off in time, I2 nothing is exposed twice, I3 the books err on the side
of the specimen, I4 what was journalled is not lost, I5 a person sees what has happened, by name. A field is empty where an
invariant has no meaning for it, and "open" where no test shows it yet.
All at once, in any order: `unit/instrument/test_safety_machine.py`; for longer: `make soak`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
INVARIANTS = ("I1 beam", "I2 once", "I3 books", "I4 journal", "I5 alarm")
OPEN = "open"
KILLED = "killed_at_every_step_the_campaign_is_the_same_as_undisturbed"
SAFE_START = "killed_while_exposing_it_starts_in_safe_with_everything_booked"
UNCLEAN = "an_unclean_end_counts_what_ran_as_spent_and_keeps_what_was_reserved"
TWICE = "a_repeated_start_returns_the_first_outcome"
LEASE = "a_lease_that_is_not_renewed_blanks_and_latches"
STALE = "a_second_agent_is_kept_out_and_a_stale_one_refused"
RUBBISH = "rubbish_on_the_control_and_safe_sockets_changes_nothing"
STREAM = "a_faulty_stream_is_noticed"
COUNTS = "ten_times_the_counts_that_the_plan_implies_lead_to_safe_and_are_booked"
TRIP = "a_vacuum_trip_ends_the_exposure_and_holds_the_next_until_it_has_been_well_for_a_while"
FULL = "a_ledger_that_cannot_be_written_holds_exposures_and_loses_none"
BOOKS = "books_that_contradict_themselves_are_not_opened"
DAMAGED = "a_damaged_ledger_never_opens_with_fewer_electrons_booked"
BROKER = "a_broker_that_hangs_does_not_keep_the_agent_from_ending"
CLOCKS = "commands_go_on_after_the_clocks_have_parted"
LOST_JOB = "a_lost_job_is_a_typed_error_and_the_next_one_works"
WALK = "a_lens_is_walked_in_portions_that_it_bears"
STOP_IN = "a_beam_stop_is_in_while_the_beam_is_too_bright_for_the_detector"
STOP_STUCK = "a_beam_stop_that_does_not_go_in_leads_to_safe"
DRY = "a_dry_run_exposes_and_costs_nothing"
DRY_LIT = "a_dry_run_that_shows_a_beam_leads_to_safe_and_is_booked"
WIDER = "limits_that_are_wider_or_cannot_be_kept_are_refused"
LENS = "a_lens_that_does_not_become_what_it_is_set_to_exposes_nothing"
SIGNAL = "the_beam_is_off_after_any_signal_that_can_be_caught"
STUCK = "the_beam_goes_off_while_the_event_loop_is_stuck"


class Fault(NamedTuple):
    """One fault, and the test of each invariant, without the `test_`."""

    name: str
    beam: str = ""
    once: str = ""
    books: str = ""
    journal: str = ""
    alarm: str = ""


FAULTS = (
    Fault(
        "instrument killed before, during, after an exposure",
        "the_watchdog_blanks_at_once_when_the_server_is_killed",
        "a_start_that_comes_again_after_a_restart_exposes_nothing",
        "a_server_killed_at_every_boundary_of_its_ledger_loses_nothing_and_exposes_nothing_twice",
        "a_killed_instrument_is_waited_for_then_resumed",
        SAFE_START,
    ),
    Fault(
        "agent killed at every step",
        "the_beam_goes_off_when_the_agent_is_killed_although_its_lease_is_long",
        KILLED,
        KILLED,
        "an_agent_killed_at_every_boundary_of_its_journal_has_lost_nothing",
        "killed_while_frames_arrive_the_trial_is_lost_and_its_region_left_alone",
    ),
    Fault(
        "network cut, stalled, flapping", LEASE, STALE, UNCLEAN, "a_killed_instrument_is_waited_for_then_resumed", LEASE
    ),
    Fault("replies twice, late, out of order, missing", "", TWICE, "a_second_start_or_end_changes_nothing", "", STREAM),
    Fault("command after its deadline", "", *["a_command_after_its_deadline_is_not_carried_out"] * 2, "", CLOCKS),
    Fault("second agent; the old one comes back", STALE, STALE, STALE, "two_agents_cannot_run_one_folder", STALE),
    Fault(
        "rubbish: envelope, CBOR, types, lengths, no end",
        "a_message_that_is_too_large_costs_a_moment_of_beam",
        RUBBISH,
        RUBBISH,
        "",
        "a_start_message_with_a_trap_in_it_is_refused_in_a_moment",
    ),
    Fault("frames missing, twice, out of order, foreign; no end", STREAM, "", STREAM, "", STREAM),
    Fault("frames corrupt, empty, saturated, hot", "", "", "", "blank_and_missing_frames", STREAM),
    Fault("positions that are none", "", "", "", "", "a_plan_beyond_the_limits_is_refused"),
    Fault("reconstruction killed, hangs, out of memory", "", "", "", "a_hanging_job_is_ended", LOST_JOB),
    Fault(
        "model that cannot be fitted, policy that fails",
        "",
        "",
        "",
        "",
        "a_policy_of_ones_own_is_asked_for_its_recommendation_before_it_matters",
    ),
    Fault(
        "disk full, read-only",
        "a_sink_that_fails_aborts_and_is_heard",
        "",
        FULL,
        "a_full_disk_stops_the_campaign",
        "too_little_space_is_noticed_before_the_exposure",
    ),
    Fault(
        "ledger or journal locked, damaged",
        "",
        "",
        DAMAGED,
        "a_damaged_journal_is_named_and_nothing_else_happens",
        BOOKS,
    ),
    Fault(
        "MQTT broker absent, dead, slow, refusing", "", "", "", BROKER, "a_broker_that_comes_back_gets_everything_again"
    ),
    Fault("clocks jump, drift, machine suspended", LEASE, CLOCKS, "", "", CLOCKS),
    Fault("more counts than were paid for", COUNTS, "", COUNTS, "", COUNTS),
    Fault("settings that are not what was set", LENS, LENS, LENS, "", LENS),
    Fault("settings that jump; promises that no one can keep", WALK, "", "", "", "what_nobody_can_keep_is_not_served"),
    Fault("beam too bright for the detector; beam stop stuck", STOP_IN, "", "", "", STOP_STUCK),
    Fault("dry run whose blanker does not work", DRY, DRY, DRY_LIT, "", DRY_LIT),
    Fault("owner's limits wider than the microscope's", "an_owners_limits_hold_for_everybody", "", "", "", WIDER),
    Fault(
        "vacuum, valves, high tension, emission, cooling",
        TRIP,
        "",
        TRIP,
        "a_leak_holds_the_campaign_and_it_goes_on_by_itself",
        TRIP,
    ),
    Fault(
        "operator takes over by hand",
        "blank_by_hand_ends_the_scan_and_latches",
        "",
        "",
        "",
        "blank_by_hand_ends_the_scan_and_latches",
    ),
    Fault("signals; event loop blocked", SIGNAL, "", "a_signal_ends_the_scan_books_it_and_exits_cleanly", "", STUCK),
    Fault(
        "campaign file edited; older, newer versions",
        "",
        "",
        "",
        "journals_of_this_version_stay_readable",
        "a_client_goes_on_with_a_server_that_says_more",
    ),
    Fault(
        "hostile peer: keys, sizes, names, commands in files",
        "a_connection_that_says_nothing_does_not_abort_an_exposure",
        "",
        "a_key_may_do_what_its_role_may",
        "any_other_command_in_the_folder_is_not_run",
        "a_name_that_would_forge_a_line_is_refused",
    ),
    Fault(
        "two campaigns on one instrument or in one folder",
        "",
        "one_acquisition_at_a_time",
        "the_dose_of_a_region_is_limited_across_campaigns",
        "two_agents_cannot_run_one_folder",
        "two_agents_cannot_run_one_folder",
    ),
)


@cache
def tests() -> dict[str, str]:
    """Names of all tests, without `test_`, and the file of each."""
    pattern = re.compile(r"^(?:async )?def test_(\w+)", re.MULTILINE)
    return {
        name: path.relative_to(HERE.parent).as_posix()
        for path in sorted(HERE.rglob("test_*.py"))
        for name in pattern.findall(path.read_text(encoding="utf-8"))
    }


def table() -> str:
    """The table as text: a number for every test, and what the numbers mean."""
    numbers: dict[str, int] = {}
    rows = [f"{'':54}" + "".join(f"{invariant:>12}" for invariant in INVARIANTS)]
    for number, fault in enumerate(FAULTS, 1):
        cells = [
            "" if not each else OPEN if each == OPEN else str(numbers.setdefault(each, len(numbers) + 1))
            for each in fault[1:]
        ]
        rows.append(f"{number:2}  {fault.name:50}" + "".join(f"{cell:>12}" for cell in cells))
    rows += ["", *(f"{number:3}  {tests()[name]}::test_{name}" for name, number in numbers.items())]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
