"""The threads that share a reconstruction's work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np


def cores() -> int:
    """Cores this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@lru_cache(maxsize=4)
def pool(workers: int) -> ThreadPoolExecutor:
    """As many threads, kept."""
    return ThreadPoolExecutor(workers, thread_name_prefix="reconstruct")


def share(work: Callable[[int, int], Any], n: int, workers: int | None = None) -> None:
    """`work(first, stop)` on equal parts of 0 … n − 1, each in a thread of its own; the last part in the caller's."""
    parts = list(pairwise(np.linspace(0, n, (workers or cores()) + 1).astype(int).tolist()))
    jobs = [pool(len(parts)).submit(work, *part) for part in parts[:-1]]
    work(*parts[-1])
    for job in jobs:
        job.result()
