"""Random splitting of counted electrons: two statistically independent data sets from one.

A Poisson count thinned binomially gives two independent Poisson counts; no electron is used twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.reconstruction.counts.patterns import chunks
from agent.reconstruction.kernels import table
from agent.reconstruction.kernels.machine_code import pack
from agent.reconstruction.kernels.threads import share
from instrument.memory import allocate


def thin(counts: NDArray[Any], fraction: float, seed: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Draw each count with the probability `fraction`.

    Args:
        counts: (n, …) unsigned integers.
        fraction: 0 … 1.
        seed: the same seed draws the same counts.
        out: where to put them, of the same shape and type; None: a new array.

    Returns:
        `out`; what is drawn and what is left are independent Poisson counts if `counts` are.
    """
    out = np.empty_like(counts) if out is None else out
    limit = _signed(min(int(fraction * 2**64), 2**64 - 1))
    source, target = counts.reshape(len(counts), -1), out.reshape(len(counts), -1)

    def work(first: int, stop: int) -> None:
        arguments = table.ThinArguments(
            counts=source[first:stop], limit=limit, first=first, seed=_mixed(seed), out=target[first:stop]
        )
        table.thin(pack(arguments))

    share(work, len(counts))
    return out


def halves(counts: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Assign each count at random to one of two halves.

    Args:
        counts: (n, ky, kx) unsigned integers of either byte order, in memory or on disk.
        seed: the same seed gives the same split.

    Returns:
        Two arrays of the same shape and type that add up to `counts`; on disk where memory does not hold them.
    """
    kind = counts.dtype.newbyteorder("=")
    one, other = allocate(counts.shape, kind), allocate(counts.shape, kind)
    done = 0
    for chunk in chunks(counts):
        part = slice(done, done + len(chunk))
        _halve_chunk(np.ascontiguousarray(chunk), done, seed, one[part])
        np.subtract(chunk, one[part], out=other[part])
        done = part.stop
    return one, other


def _halve_chunk(counts: NDArray[Any], number: int, seed: int, out: NDArray[Any]) -> None:
    """One half of each of the patterns `number` and on, written to `out`."""
    source, target = counts.reshape(len(counts), -1), out.reshape(len(counts), -1)

    def work(first: int, stop: int) -> None:
        arguments = table.HalveArguments(
            counts=source[first:stop], first=number + first, seed=_mixed(seed), out=target[first:stop]
        )
        table.halve(pack(arguments))

    share(work, len(counts))


def _mixed(seed: int) -> int:
    return _signed(seed * 0x2545F4914F6CDD1D % 2**64)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return number - 2**64 if number >= 2**63 else number
