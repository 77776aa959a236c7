"""Whole reconstructions are the same on the fused CPU kernels, in the plain form and on a GPU, and survive a GPU that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantom import experiment

from agent.reconstruction import ReconstructionSettings, reconstruct
from agent.reconstruction.backends import arrays, choice
from agent.reconstruction.backends.arrays import ArrayBackend
from agent.reconstruction.backends.protocol import Backend
from agent.reconstruction.kernels.cuda import GpuFailedError
from agent.reconstruction.model import forward

WAYS: list[dict[str, Any]] = [
    {},
    {"slices": 2, "slice_spacing": 5.0, "probe_modes": 2, "padding": 1.0},
    {"slices": 3, "slice_spacing": (1.0, 2.0)},
    {"object_type": "complex", "regularise": True},
    {"refine_intensity": True, "variable_modes": 1},
    {"refine_positions": "free"},
    {"loss": "amplitude", "background": False, "padding": 1.5},
    {"refine_optics": ("defocus",)},
]


def _both(other: Backend, way: dict[str, Any]) -> float:
    """Relative L2 difference of the objects, over the illuminated field, of the fused CPU form and another backend."""
    data = experiment(dose=1e5 if "slices" in way else 3e3, step=2.0)  # so many counts tell what slices absorb
    # not scaled: the simulated counts would be others where the model differs in its last digit
    settings = ReconstructionSettings(max_passes=8, stop_early=False, quantitative=False, device="cpu", **way)
    first = reconstruct(data, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "choose", lambda device: other)
        second = reconstruct(data, settings)
    assert second.device == other.name
    lit = first.illuminated > 0.3
    a, b = first.object[:, lit], second.object[:, lit]
    b = b * np.exp(-1j * np.angle((b * a.conj()).sum()))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_whole_reconstruction_agrees_between_fused_and_plain(way: dict[str, Any]) -> None:
    assert _both(ArrayBackend(np, "numpy"), way) < 1e-4


def test_the_backend_that_the_readme_adds_agrees() -> None:
    readme = Path(arrays.__file__).with_name("README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(readme.split("```python")[1].split("```")[0], names)  # noqa: S102 (our own README)
    assert _both(names["FewAtATime"](), {}) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_cpu_and_gpu_agree(way: dict[str, Any]) -> None:
    if reason := choice.gpu_reason():
        pytest.skip(reason)
    assert _both(choice.choose("gpu"), way) < 1e-4


class _FailingGpu(ArrayBackend):
    """A device that is lost in the third batch."""

    def __init__(self) -> None:
        super().__init__(np, "gpu")
        self.batches = 0

    def accumulate(self, *job: object) -> forward.Sums:
        self.batches += 1
        if self.batches == 3:
            msg = "the GPU has too little memory: these patterns need 3 GB, 1 GB are free"
            raise GpuFailedError(msg)
        return super().accumulate(*job)


def test_a_gpu_that_fails_on_the_way_is_replaced_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data, choose = experiment(dose=3e3, step=3.0), choice.choose
    settings = ReconstructionSettings(max_passes=3, stop_early=False, quantitative=False)
    monkeypatch.setattr(choice, "choose", lambda device: choose("cpu") if device == "cpu" else _FailingGpu())
    result = reconstruct(data, settings)
    assert result.device == "cpu"
    assert result.notes == (
        "the GPU has too little memory: these patterns need 3 GB, 1 GB are free; reconstructed on the CPU",
    )
    assert np.array_equal(result.object, reconstruct(data, replace(settings, device="cpu")).object)
