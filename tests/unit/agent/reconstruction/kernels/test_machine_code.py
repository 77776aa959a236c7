"""Kernels from their kept machine code: without numba, never out of date, and without a folder to keep them in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from agent.reconstruction.kernels import machine_code, table
from agent.reconstruction.kernels.machine_code import Kernel, pack

ROOT = Path(__file__).parents[5]


def halved(counts: np.ndarray, kernel: Kernel) -> np.ndarray:
    out = np.empty_like(counts)
    kernel(pack(table.HalveArguments(counts=counts, first=0, seed=7, out=out)))
    return out


def halving() -> Kernel:
    """A kernel that this process has not linked yet."""
    return Kernel("thinning", "halve", table.HalveArguments)


COUNTS = np.random.default_rng(0).integers(0, 9, (3, 50)).astype(np.uint8)


def test_a_second_process_reconstructs_without_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("agent", "instrument"):  # a copy, since other tests use the kept code at the same time
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.nbi", "*.nbc"))
    for kept in tmp_path.rglob("*.o"):
        if not kept.name.startswith("block"):  # takes longest to compile
            kept.unlink()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "agent.reconstruction"], check=True)
    assert len(list(tmp_path.rglob("*.o"))) > 5
    script = (
        "import sys, numpy as np\n"
        "from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct\n"
        "axis = 2.0 * np.arange(5)\n"
        "positions = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1).reshape(-1, 2)\n"
        "counts = np.random.default_rng(0).poisson(0.5, (25, 32, 32)).astype(np.uint16)\n"
        "reconstruct(DiffractionData(counts, positions, 80e3, 21.4, 3.0), ReconstructionSettings(device='cpu'))\n"
        "assert 'numba' not in sys.modules, 'numba was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_sources_are_compiled_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_code, "_folders", lambda: (tmp_path,))
    first = halved(COUNTS, halving())
    kept = set(tmp_path.iterdir())
    assert np.array_equal(halved(COUNTS, halving()), first)
    assert set(tmp_path.iterdir()) == kept
    monkeypatch.setattr(machine_code, "_origin", lambda: "the kernels of tomorrow")
    assert np.array_equal(halved(COUNTS, halving()), first)
    assert len(set(tmp_path.iterdir()) - kept) == 1


def test_folders_that_cannot_be_written_cost_time_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(machine_code, "_folders", lambda: (tmp_path / "file" / "cache",))
    out = halved(COUNTS, halving())
    assert (out <= COUNTS).all()
    assert 0.4 < out.sum() / COUNTS.sum() < 0.6


@pytest.mark.parametrize("wrong", [COUNTS[:, ::2], COUNTS.astype(">u2"), [1, 2], "seven", None])
def test_arguments_that_machine_code_cannot_take_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="kernels take"):
        pack(table.ComplexArguments(z=wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", table.KERNELS, ids=lambda kernel: kernel.name)
def test_the_table_names_the_arguments_of_every_kernel_in_their_order(kernel: Kernel) -> None:
    assert kernel.function() is not None
    assert len(set(kernel.parameters)) == len(kernel.parameters)


def test_a_kernel_whose_arguments_stand_in_another_order_is_not_compiled() -> None:
    class Exchanged(NamedTuple):
        counts: np.ndarray
        seed: int
        first: int
        out: np.ndarray

    with pytest.raises(
        TypeError, match=r"halve takes counts, first, seed, out; the table names counts, seed, first, out"
    ):
        Kernel("thinning", "halve", Exchanged).function()


def test_groups_in_another_order_are_refused() -> None:
    parts = pack(table.ComplexArguments(np.zeros(4, np.float32))), pack(table.PlanarArguments(*np.zeros((2, 2), "f4")))
    table.split(*parts)
    with pytest.raises(TypeError, match="split takes ComplexArguments, PlanarArguments, not PlanarArguments, Complex"):
        table.split(*reversed(parts))
