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
    """Share n pieces of work out between threads, in equal parts; the last part is done in the caller's thread.

    Args:
        work: work(first, stop) does the pieces first … stop − 1; it is not called where there are none.
        n: number of pieces.
        workers: number of threads; None: one for each core.
    """
    threads = workers or cores()
    bounds = pairwise(np.linspace(0, n, threads + 1).astype(int).tolist())
    parts = [(first, stop) for first, stop in bounds if first < stop]
    jobs = [pool(threads).submit(work, *part) for part in parts[:-1]]
    for part in parts[-1:]:
        work(*part)
    for job in jobs:
        job.result()
