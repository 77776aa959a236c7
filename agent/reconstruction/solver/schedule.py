"""The passes of a reconstruction: what each of them updates, and how boldly."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.reconstruction.model.settings import ReconstructionSettings

FINAL_OFFSET = 0.01
"""Part of the count offset of the first passes that the last ones keep."""
STIRRING_PASSES = 3
"""Passes in mini-batches."""
BINNED_PASSES = 2
"""Those of them that see the detector in bins, where `binning` allows."""
BATCHES = 6
"""Mini-batches of the first pass."""
DENSE = 64
"""Patterns that light a place from which on the first pass comes in two halves, either of which is a picture already."""
CALMING = 0.7
"""Step of a pass in mini-batches relative to that of the one before."""
BOTH = (0.8, 0.5)
"""Steps of object and probe in full passes where both are refined; together they overshoot beyond a full step each."""
PROBE_WAITS = 20
"""Passes, half of all at most, in which the probe stays where positions are refined.

A scan of another scale looks much like a probe of another defocus, and where both are refined they approach the truth together
but slowly (2 % of scale take 100 passes instead of 30).
"""


@dataclass(frozen=True)
class Step:
    """One pass.

    Attributes:
        batch: patterns per update; None: all of them, with momentum.
        size: fraction of the preconditioned gradient of the object.
        probe: the same of the probe; 0: it stays.
        offset_fraction: fraction of the count offset of the first pass.
        binned: whether bins of the detector will do; the probe stays then.
        by_frequency: whether an object that incoherent waves have lit takes steps by what is seen of each frequency.
        half: 0 or 1: every second pattern, from the first or from the second on; None: all.
    """

    batch: int | None
    size: float
    probe: float
    offset_fraction: float = 1.0
    binned: bool = False
    half: int | None = None
    by_frequency: bool = True


def schedule(settings: ReconstructionSettings, n_patterns: int, overlap: float = 0.0) -> list[Step]:
    """The passes of a reconstruction from patterns of which `overlap` light a place."""
    steps = []
    first = settings.batch_size or max(16, n_patterns // BATCHES)
    probe_waits = min(PROBE_WAITS, settings.max_passes // 2)
    for p in range(settings.max_passes):
        refine = settings.refine_probe and p >= (1 if settings.refine_positions is None else probe_waits)
        if p < STIRRING_PASSES:
            size = settings.step_size * CALMING**p
            batch = min(n_patterns, first * 2**p)
            step = Step(batch, size, size if refine else 0.0, binned=p < BINNED_PASSES)
            if p == 0 and overlap > DENSE:
                steps.append(replace(step, batch=max(1, batch // 2), half=0))
                step = replace(step, half=1)
            steps.append(step)
        else:
            offset_fraction = max(0.2 ** (p - STIRRING_PASSES + 1), FINAL_OFFSET)
            steps.append(Step(None, *(BOTH if refine else (1.0, 0.0)), offset_fraction))
    return steps
