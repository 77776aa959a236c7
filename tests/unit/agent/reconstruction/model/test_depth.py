"""What the counts tell of depth: functions of H_ij = cos(πλk²(z_i − z_j)) against NumPy's own eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest

from agent.reconstruction.model.depth import Depths

WAVELENGTH, PIXEL = 0.0418, (0.25, 0.2)


@pytest.mark.parametrize("depths", [[0.0], [0.0, 6.15], [0.0, 1.25, 6.15, 7.4], [0.0, 2.0, 3.0, 11.0, 20.0]], ids=str)
def test_functions_of_the_curvature_are_those_of_the_matrix(depths: list[float]) -> None:
    z, shape = np.array(depths), (24, 18)
    images = np.random.default_rng(0).normal(size=(len(z), *shape)).astype(np.float32)
    found = Depths(np, z, WAVELENGTH, PIXEL).filtered(images, lambda seen: 1 / (seen + 0.7))
    k2 = np.fft.fftfreq(shape[0], PIXEL[0])[:, None] ** 2 + np.fft.fftfreq(shape[1], PIXEL[1]) ** 2
    matrices = np.cos(np.pi * WAVELENGTH * k2[..., None, None] * (z[:, None] - z))
    inverse = np.linalg.inv(matrices + 0.7 * np.eye(len(z)))
    expected = np.fft.ifft2(np.einsum("yxij,jyx->iyx", inverse, np.fft.fft2(images))).real
    np.testing.assert_allclose(found, expected, atol=2e-5)
