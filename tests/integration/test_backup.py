"""A backup that was made while it all runs can be gone on with; nothing of it is exposed twice or forgotten."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from served_small_world import PROCESSING, config, ledger, serving
from served_stripes import Frames, make_plan, until
from served_stripes import serving as serving_stripes
from striped_microscope import StripedMicroscope

from agent import load_campaign, resume_campaign, run_campaign
from agent.campaign.stop import Control
from agent.errors import BadInputError, StoppedError
from agent.events import Event, TrialChanged
from agent.storage.backup import back_up
from instrument.backup import copy_ledger
from instrument.ledger import Ledger

pytestmark = pytest.mark.usefixtures("world")


async def test_the_copy_of_a_ledger_that_is_in_use_opens_with_the_same_books(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    async with serving_stripes(tmp_path, StripedMicroscope(), backup=copies) as (_, client), client.lease():
        await until(lambda: (copies / "ledger.sqlite").exists())
        with pytest.raises(BadInputError, match="serve --backup"):
            await asyncio.to_thread(copy_ledger, tmp_path / "state", tmp_path / "elsewhere")
        await client.prepare(make_plan())
        outcome = await client.acquire("a1", Frames())
    shutil.rmtree(tmp_path / "state")  # the disk of the control PC is lost
    await asyncio.to_thread(copy_ledger, copies, tmp_path / "state")
    with pytest.raises(BadInputError, match="is not replaced"):
        await asyncio.to_thread(copy_ledger, copies, tmp_path / "state")
    books = Ledger(tmp_path / "state")
    assert books.account("c").spent == outcome.electrons
    assert books.outcome("a1") == outcome
    books.close()


async def test_a_campaign_is_copied_while_it_runs_and_the_copy_goes_on(tmp_path: Path) -> None:
    folder, copy, control = tmp_path / "campaign", tmp_path / "copy", Control()

    class Operator:
        """Copies the campaign when its second trial is on disk, and ends it then."""

        copied = 0

        def on_event(self, event: Event) -> None:
            if (
                isinstance(event, TrialChanged)
                and event.trial.number == 2
                and event.trial.state == "acquired"
                and not self.copied
            ):
                self.copied = back_up(folder, copy)
                control.stop("the disk is lost", now=True)

    operator = Operator()
    with serving(tmp_path) as server:
        with pytest.raises(StoppedError, match="the disk is lost"):
            await run_campaign(
                config(expert=None),
                server.endpoint,
                folder,
                observers=[operator],
                processing=PROCESSING,
                control=control,
            )
        before = load_campaign(folder)
        shutil.rmtree(folder)
        assert load_campaign(copy).trials[0].settings == before.trials[0].settings
        record = await resume_campaign(copy)
        exposed = await ledger(server.endpoint)
    assert operator.copied >= 3
    assert record.state == "done"
    assert [t.settings for t in record.trials[:2]] == [t.settings for t in before.trials[:2]]
    assert len({entry.id for entry in exposed}) == len(exposed)
    assert sum(entry.electrons for entry in exposed) == pytest.approx(record.electrons_spent)


def test_a_backup_goes_into_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a campaign folder"):
        back_up(tmp_path, tmp_path / "copy")
