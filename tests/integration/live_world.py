"""A live process for the small world that sees at once what becomes of the third scan: nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from small_world import HELD_AT

from agent.campaign.live_picture import LiveEstimate, LiveJob, LiveResult
from agent.records import Score
from agent.storage.frame_mirror import MirroredFrames


class _Follow:
    job_type = LiveJob

    def __call__(self, job: LiveJob, tell: Callable[[str, dict[str, Any]], None]) -> LiveResult:
        if job.trial == 3:
            detector = job.description.detector
            frames = MirroredFrames(job.frames, job.plan.n_positions, detector.shape, np.dtype(detector.dtype))
            while frames.received().sum() < HELD_AT:
                time.sleep(0.01)  # as the real one looks again and again
            hopeless = LiveEstimate(part=0.5, score=Score(value=0.01, sd=0.01, halves="thinned"))
            tell("estimate", hopeless.model_dump(mode="json"))
        return LiveResult(pictures=0)


follow = _Follow()
