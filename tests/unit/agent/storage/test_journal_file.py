"""The journal: whole after any kill, one agent at a time, readable years later."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import between, description, detector, square
from fail_points import dies_at

from agent.config import CampaignConfig, load_config
from agent.errors import BadInputError
from agent.records import CampaignLayout, Recommendation, Score, Settings, Suggestion, Trial
from agent.storage.facts import CampaignFacts, InstrumentLink
from agent.storage.journal import JOURNAL, Journal, load_campaign, load_history, load_link
from instrument.models import Description, Rectangle

GOLDEN = Path(__file__).parent / "golden"


def golden_column() -> Description:
    return description(
        name="golden column",
        beam_current=None,
        detector=detector(8, 1.0),
        dose=between(1, 1e6, "e/Å²"),
        electrons_per_pattern=(1, 1e6),
        area=square(300),
    )


def trial(number: int, **changes: Any) -> Trial:
    suggestion = Suggestion(
        settings=Settings(step=1.5, defocus=200, dose=1000), source="sobol", reason="spread evenly", predicted=None
    )
    return Trial(**{"number": number, "role": "exploration", "state": "suggested", "suggestion": suggestion, **changes})


def create(folder: Path) -> Journal:
    field = Rectangle(y=0, x=0, height=24, width=24)
    facts = CampaignFacts(
        config=load_config(GOLDEN / "campaign.yaml"),
        description=golden_column(),
        campaign="golden-000001",
        layout=CampaignLayout(final=field, expert=None, exploration=(field,), margin=0),
        link=InstrumentLink(endpoint="tcp://127.0.0.1:5555", command=("python", "-m", "sim_instrument")),
        processing="agent.processing:process",
        versions={"ptychopilot": "0.1.0"},
        started="2026-01-01T00:00:00.000+00:00",
        state="running",
    )
    return Journal.create(folder, facts)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    score = Score(value=3.5, sd=0.1, resolution=1.2, frequency=(0.2,), frc=(0.9,), pairs=(40.0,))
    done = trial(1, state="done", score=score, electrons=1e5, seconds={"acquire": 1.5})
    recommended = Recommendation(settings=done.settings, predicted=4.0, predicted_sd=0.2, reason="best")
    with create(tmp_path / "c") as journal:
        journal.write_trial(trial(1))
        journal.write_trial(done)
        journal.write_trial(trial(2, role="expert", electrons=7e5))
        journal.write(recommended=recommended, target=2.0)
        journal.note("operator", who="A. Tester", command="pause")
        known = journal.facts
        assert load_campaign(tmp_path / "c") == journal.record(), "a reader sees it while it is being written"
    with Journal.open(tmp_path / "c") as journal:
        assert journal.facts == known
    record = load_campaign(tmp_path / "c")
    assert record.trials[0] == done
    assert record.recommended == recommended
    assert record.target == 2.0
    assert record.electrons_spent == 1e5, "the expert's comparison is not the campaign's to pay"
    assert load_link(tmp_path / "c").command == ("python", "-m", "sim_instrument")
    kinds = [entry.kind for entry in load_history(tmp_path / "c")]
    assert kinds[-6:] == ["trial suggested", "trial done", "trial suggested", "recommended", "target", "operator"]


def test_a_used_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    create(tmp_path / "c").close()
    with pytest.raises(BadInputError, match="resume"):
        create(tmp_path / "c")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(BadInputError, match="not empty"):
        create(tmp_path / "other")
    with pytest.raises(BadInputError, match="is a file"):
        create(tmp_path / "other" / "thesis.tex")


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    with create(tmp_path / "c"), pytest.raises(BadInputError, match="another agent"):
        Journal.open(tmp_path / "c")
    Journal.open(tmp_path / "c").close()


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\x00 and then rubbish" * 100])
def test_what_is_no_journal_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / JOURNAL).write_bytes(content)
    for read in (load_campaign, Journal.open):
        with pytest.raises(BadInputError, match=r"not a campaign folder|damaged|version|before it began"):
            read(tmp_path)


def test_a_truncated_journal_is_bad_input(tmp_path: Path) -> None:
    create(tmp_path / "c").close()
    path = tmp_path / "c" / JOURNAL
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(BadInputError, match="damaged"):
        load_campaign(tmp_path / "c")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_journal_file import create, trial
journal = create(Path({folder!r}))
for number in range(1, 1000):
    journal.write_trial(trial(number))
    print(number, flush=True)
"""


def test_after_kill_9_nothing_that_was_written_is_lost(tmp_path: Path) -> None:
    script = KILLED.format(
        here=str(Path(__file__).parent), tests=str(Path(__file__).parents[3]), folder=str(tmp_path / "c")
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = 20 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    with Journal.open(tmp_path / "c") as journal:
        assert [t.number for t in journal.trials()][:told] == list(range(1, told + 1))
        journal.write_trial(trial(2000))


def test_a_campaign_that_was_killed_before_it_began_is_told_to_be_deleted(tmp_path: Path) -> None:
    died, done = dies_at(1, lambda tell: one_trial(tmp_path / "c", tell))
    assert died
    assert not done
    with pytest.raises(BadInputError, match="ended before it began, and nothing was exposed; delete the folder"):
        load_campaign(tmp_path / "c")


STATES_OF_A_TRIAL = ("suggested", "reserved", "acquiring", "acquired", "reconstructing", "done")


def one_trial(folder: Path, done: Callable[[str], None]) -> None:
    with create(folder) as journal:
        done("facts")
        for state in STATES_OF_A_TRIAL:
            journal.write_trial(trial(1, state=state))
            done(f"trial {state}")
        journal.note("paused", text="by hand")
        done("paused")
        journal.write(state="done")
        done("state")


def test_an_agent_killed_at_every_boundary_of_its_journal_has_lost_nothing(tmp_path: Path):
    fatal = 0
    while True:
        fatal += 1
        folder = tmp_path / str(fatal)
        died, done = dies_at(fatal, lambda tell, folder=folder: one_trial(folder, tell))
        if not died:
            break
        if not done and not (folder / JOURNAL).exists():
            continue
        if not done and fatal == 1:
            continue  # before the first commit there is no campaign yet
        kinds = [entry.kind for entry in load_history(folder)]
        assert all(word in kinds for word in done if word != "facts")
        with Journal.open(folder) as journal:
            (last,) = [word for word in done if word.startswith("trial")][-1:] or [""]
            states = [f"trial {each.state}" for each in journal.trials()]
            follows = STATES_OF_A_TRIAL.index(last.removeprefix("trial ")) + 1 if last else 0
            assert states in (
                [last] * bool(last),
                [f"trial {state}" for state in STATES_OF_A_TRIAL[follows : follows + 1]],
            )
            journal.write_trial(trial(2))
    assert fatal > 18


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {tests!r}]
from test_journal_file import create, trial
from agent.errors import StoppedError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = create(Path({folder!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for number in range(1, 1000):
        journal.write_trial(trial(number))
except StoppedError as error:
    print(error)
"""


def test_a_full_disk_stops_the_campaign(tmp_path: Path) -> None:
    script = FULL.format(
        here=str(Path(__file__).parent), tests=str(Path(__file__).parents[3]), folder=str(tmp_path / "c")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "the disk is full" in done.stdout, done.stderr
    assert load_campaign(tmp_path / "c").trials


def test_journals_of_this_version_stay_readable(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / JOURNAL)
    connection.executescript((GOLDEN / "journal-1.sql").read_text(encoding="utf-8"))
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    record = load_campaign(tmp_path)
    stated = load_config(GOLDEN / "campaign.yaml")
    as_then = stated.reconstruction.model_copy(update={"model": "given", "final_passes": 0})
    assert record.config == stated.model_copy(update={"passes": 1, "prior": "none", "reconstruction": as_then})
    assert record.description == golden_column()
    assert record.state == "running"
    (done,) = record.trials
    assert done.score is not None
    assert done.score.value == 3.5
    assert record.recommended is not None
    assert record.recommended.settings == done.settings


def test_a_journal_without_what_a_campaign_needs_cannot_be_continued(tmp_path: Path) -> None:
    create(tmp_path / "c").close()
    connection = sqlite3.connect(tmp_path / "c" / JOURNAL)
    with connection:
        connection.execute("DELETE FROM facts WHERE key = 'layout'")
    connection.close()
    with pytest.raises(BadInputError, match="incomplete"):
        Journal.open(tmp_path / "c")
    assert load_campaign(tmp_path / "c").state == "running", "a report needs less"


def test_the_golden_campaign_file_says_what_it_said() -> None:
    config = load_config(GOLDEN / "campaign.yaml")
    assert isinstance(config, CampaignConfig)
    assert (config.name, config.electrons, config.expert) == ("golden", 1.2e7, (0.85, 500.0))
    assert config.search.defocus == (0.0, 800.0)
    assert config.metadata.operator == "A. Tester"
    assert config.goal.kind == "best_picture"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_finished_campaign_on_a_read_only_medium_is_read(tmp_path: Path) -> None:
    create(tmp_path / "c").close()
    (tmp_path / "c").chmod(0o500)
    try:
        assert load_campaign(tmp_path / "c").state == "running"
    finally:
        (tmp_path / "c").chmod(0o700)


@pytest.mark.parametrize("damage", ["{", "[1]", "null", "\\x01", b"\xff{", None])
@pytest.mark.parametrize("table", ["facts", "trials", "entries"])
def test_a_damaged_journal_is_named_and_nothing_else_happens(tmp_path: Path, table: str, damage: Any) -> None:
    folder = tmp_path / "c"
    with create(folder) as journal:
        journal.write_trial(trial(1))
    column = {"facts": "value", "trials": "record", "entries": "value"}[table]
    with sqlite3.connect(folder / JOURNAL) as database:
        if damage is None:
            database.execute(f"DROP TABLE {table}")
        else:
            database.execute(f"UPDATE {table} SET {column} = CAST(? AS TEXT)", (damage,))
    database.close()
    readers = (load_campaign, load_link, load_history, lambda path: Journal.open(path).trials())
    complaints = [said for read in readers if (said := _complaint(read, folder))]
    assert all("damaged" in said or "incomplete" in said for said in complaints)
    assert complaints or table == "entries", "a history may hold any JSON"


def _complaint(read: Callable[[Path], object], folder: Path) -> str:
    try:
        read(folder)
    except BadInputError as error:
        return str(error)
    return ""
