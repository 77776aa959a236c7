"""A scan that is looked at while it runs: the picture sharpens, and the result is what it would have been."""

from __future__ import annotations

import asyncio
import base64
import queue
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import h5py
import numpy as np
import phantom
import pytest

from agent.campaign.live import FOLDER, LivePictures
from agent.campaign.live_picture import LiveEstimate, LiveJob, LiveResult, LiveView, continued, follow
from agent.config import CampaignConfig, Metadata, ScoreChoice
from agent.events import Audience, Event, LivePictureDrawn
from agent.processing.child import PROCESSING
from agent.processing.process import ProcessingJob, process
from agent.reconstruction import DiffractionData, Reconstructor
from agent.reconstruction_choice import ReconstructionChoice
from agent.records import Settings, Suggestion, Trial, TrialState
from agent.scoring.halves import judge
from agent.scoring.hopeless import LiveScore
from agent.scoring.regions import tiles
from agent.scoring.so_far import CHECKPOINTS
from agent.status.contract import LARGEST_IMAGE
from agent.storage.acquisition_file import AcquisitionWriter
from agent.storage.frame_mirror import FrameMirror, MirroredFrames
from agent.storage.reconstruction_file import read_reconstruction
from instrument import stream
from instrument.models import Outcome

STEP = 1.5
SCORED = examples.square(13.5, 3.0, 3.0)
CHOSEN = ScoreChoice(k_max=1.0, field=13.5)
CHOICE = ReconstructionChoice.model_validate({"model": "given", "passes": 2, "calibrate": False, "device": "cpu"})
DESCRIPTION = examples.description(
    detector=examples.detector(phantom.N, phantom.ANGULAR_PIXEL),
    scan_rotation=0.0,
    mirrored=False,
    electrons_per_pattern=(1, 1e7),
)


def scan(edge: float = 19.5, dose: float = 1e4) -> tuple[Any, DiffractionData]:
    """A plan in two passes, and what the phantom's microscope makes of it."""
    plan = examples.plan("live-001", edge, 0, 0, step=STEP, defocus=200.0, dose=dose, passes=2)
    return plan, phantom.experiment(positions=plan.scan_positions(), step=STEP, dose=dose / 2)


def job(tmp_path: Path, plan: Any, *, judged: bool = False) -> LiveJob:
    return LiveJob(
        trial=1,
        frames=tmp_path / "frames.part",
        pictures=tmp_path / FOLDER,
        plan=plan,
        description=DESCRIPTION,
        reconstruction=CHOICE,
        score=CHOSEN,
        scored=SCORED,
        judged=judged,
    )


def mirror(wanted: LiveJob) -> FrameMirror:
    return FrameMirror(wanted.frames, wanted.plan.n_positions, (phantom.N, phantom.N), np.dtype(np.uint16))


def test_the_picture_sharpens_from_the_first_tenth_of_a_scan_on(tmp_path: Path) -> None:
    plan, data = scan(dose=2e3)
    wanted, told = job(tmp_path, plan), queue.SimpleQueue[LiveView]()
    ended: list[LiveResult] = []

    def tell(kind: str, view: dict[str, Any]) -> None:
        assert kind == "view"
        told.put(LiveView.model_validate(view))

    with mirror(wanted) as frames:
        work = threading.Thread(target=lambda: ended.append(follow(wanted, tell)))
        work.start()
        views = []
        for part in np.array_split(np.arange(len(data.patterns)), [34, 180])[:2]:
            for index in part:
                frames.put(int(index), data.patterns[index])
            while not views or views[-1].received < part[-1]:  # it may look in between
                views.append(told.get(timeout=180))
            assert set(wanted.pictures.iterdir()) == {wanted.pictures / f"001-{n}.png" for n in ("phase", "spectrum")}
    work.join(timeout=180)
    assert ended[0].pictures == len(views) >= 2, "it ends with the scan"
    assert views[0].received < len(data.patterns) / 5
    for view in views:
        for png in (base64.b64decode(view.phase), base64.b64decode(view.spectrum)):
            assert png.startswith(b"\x89PNG")
            assert len(png) < LARGEST_IMAGE


def test_frames_that_come_bit_by_bit_make_the_picture_of_all_at_once(tmp_path: Path) -> None:
    plan, data = scan(dose=2e3)
    wanted = job(tmp_path, plan)
    found: Reconstructor | None = None
    so_far = np.zeros(0, np.int64)
    with mirror(wanted) as frames:
        for index, pattern in enumerate(data.patterns):
            frames.put(index, pattern)
        there = MirroredFrames(wanted.frames, len(data.patterns), (phantom.N, phantom.N), np.dtype(np.uint16))
        for new in np.array_split(np.arange(len(data.patterns)), 6):
            so_far = np.concatenate([so_far, new])
            found = continued(wanted, there, found, so_far, new)
        at_once = continued(wanted, there, None, so_far, so_far)
    assert found is not None
    live, whole = (phantom.phase_scale(*phantom.inner(each.result(), field=19.5))[1] for each in (found, at_once))
    assert whole > 0.8
    assert live > 0.97 * whole


def test_what_is_to_be_expected_is_told_after_parts_of_the_first_pass(tmp_path: Path) -> None:
    plan, data = scan(dose=4e3)
    wanted, told = job(tmp_path, plan, judged=True), queue.SimpleQueue[LiveEstimate]()

    def tell(kind: str, record: dict[str, Any]) -> None:
        if kind == "estimate":
            told.put(LiveEstimate.model_validate(record))

    with mirror(wanted) as frames:
        for index in range(len(data.patterns) // 2):
            frames.put(index, data.patterns[index])
        work = threading.Thread(target=lambda: follow(wanted, tell))
        work.start()
        estimates = [told.get(timeout=180) for _ in CHECKPOINTS]
    work.join(timeout=180)
    whole = judge(
        replace(data, pass_index=plan.pass_index()), CHOICE.settings(), tiles(SCORED, SCORED.height), CHOSEN, 1
    ).score
    assert [each.part for each in estimates] == list(CHECKPOINTS)
    for estimate in estimates:
        expected = LiveScore(estimate.score, estimate.part).expected()
        assert abs(expected.value - whole.value) < 2 * np.hypot(expected.sd, whole.sd), estimate.part
        assert expected.sd < 0.8 * whole.value, "it says something"


def trial(plan: Any) -> Trial:
    settings = Settings(step=plan.step, defocus=plan.defocus, dose=plan.dose)
    suggestion = Suggestion(settings=settings, source="test", reason="")
    return Trial(number=1, role="exploration", state=TrialState.ACQUIRING, suggestion=suggestion, plan=plan)


def session(folder: Path, told: asyncio.Queue[LivePictureDrawn], picture: bool) -> Any:
    class Watching:
        def on_event(self, event: Event) -> None:
            assert isinstance(event, LivePictureDrawn)
            told.put_nowait(event)

    config = CampaignConfig.model_validate(
        {
            "name": "c",
            "electrons": 1e6,
            "area": {"height": 20, "width": 20},
            "exploration": {"height": 15, "width": 15},
            "reconstruction": {"passes": 2},
            "live": {"picture": picture},
        }
    )
    facts = SimpleNamespace(processing=PROCESSING)
    return SimpleNamespace(
        folder=folder,
        config=config,
        book=[],
        audience=Audience([Watching()]),
        journal=SimpleNamespace(facts=facts),
    )


async def acquired(folder: Path, plan: Any, data: DiffractionData, *, picture: bool) -> tuple[Path, int]:
    """The scan's file, written under the eyes of the live process or without them; and how many pictures there were."""
    path = folder / "acquisitions" / "001-exploration.h5"
    path.parent.mkdir(parents=True)
    told: asyncio.Queue[LivePictureDrawn] = asyncio.Queue()
    async with LivePictures(session(folder, told, picture)) as live:
        with AcquisitionWriter(path, plan, DESCRIPTION, Metadata()) as writer:
            with live.following(trial(plan), DESCRIPTION, writer, 60.0):
                for index, pattern in enumerate(data.patterns):
                    writer.frame(index, stream.compress(pattern), pattern.shape, pattern.dtype)
                    if picture and index == len(data.patterns) // 2:
                        async with asyncio.timeout(180):
                            first = await told.get()
                        assert first.received <= index + 1
                        assert all((folder / file).is_file() for file in first.files)
            writer.finish(Outcome(id=plan.id, state="done", frames=len(data.patterns)))
        seen = int(picture) + told.qsize()
    assert not (folder / FOLDER).exists()
    return path, seen


async def test_a_scan_that_was_followed_has_the_same_result_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.campaign.live.NICENESS", 0)  # other tests would keep it from the processor
    plan, data = scan(edge=15.0)
    results = []
    for name in (False, True):
        folder = tmp_path / str(name)
        path, seen = await acquired(folder, plan, data, picture=name)
        assert bool(seen) == name
        assert not list(folder.rglob("*.part"))
        outcome = process(
            ProcessingJob(
                acquisition=path,
                output=folder / "reconstruction.h5",
                column_output=folder / "column.json",
                scored=examples.square(10.0, 2.5, 2.5),
                reconstruction=CHOICE,
                score=ScoreChoice(),
            )
        )
        with h5py.File(path) as file:
            counts = file["entry/measurement/patterns"][:]
        results.append((counts, read_reconstruction(folder / "reconstruction.h5"), outcome.score))
    for without, with_ in zip(*results, strict=True):
        if isinstance(without, np.ndarray):
            assert (without == with_).all()
        elif hasattr(without, "reconstruction"):
            assert (without.reconstruction.object == with_.reconstruction.object).all()
            assert (without.reconstruction.probe == with_.reconstruction.probe).all()
        else:
            assert without == with_


def test_a_disk_that_takes_no_more_ends_the_mirror_not_the_scan(tmp_path: Path) -> None:
    with FrameMirror(tmp_path / "frames.part", 4, (2, 2), np.dtype(np.uint16)) as frames:
        frames.put(0, np.ones((2, 2), np.uint16))
        frames._file.close()
        frames.put(1, np.ones((2, 2), np.uint16))
        there = MirroredFrames(tmp_path / "frames.part", 4, (2, 2), np.dtype(np.uint16))
        assert there.received().tolist() == [True, False, False, False]
    assert there.over
    with pytest.raises(FileNotFoundError):
        MirroredFrames(tmp_path / "frames.part", 4, (2, 2), np.dtype(np.uint16))
