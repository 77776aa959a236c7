"""How object and probe climb the likelihood: one preconditioned step for each mini-batch, then full passes with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.reconstruction.model import forward
from agent.reconstruction.model.depth import DAMPING, Depths
from agent.reconstruction.model.transmission import TransmissionLaw
from agent.reconstruction.solver.positions import moved
from agent.reconstruction.solver.prior import Prior
from agent.reconstruction.solver.schedule import Step

if TYPE_CHECKING:
    from agent.reconstruction.solver.reconstructor import Reconstructor

ILLUMINATION_FLOOR = 0.05
"""Part of the largest illumination added to the preconditioner, so that the rim of the field is not driven by noise."""

PROBE_FREEDOM = 0.1
"""Part of its intensity by which a probe is expected to differ from the one it started from."""


@dataclass
class Reached:
    """What the last full pass reached, and how long the momentum has built up; all on the device."""

    object: Any
    apertures: Any
    age: Any = 1.0
    numbers: Any = None
    """Of the slices' law, where they have one."""


class Ascent:
    """What the steps of a reconstruction leave behind for those that follow.

    Args:
        xp: array module.
        resolved: (y, x) largest frequency that the detector resolves, as a part of the object grid's Nyquist frequency.
        depths: what is seen of which slice a phase belongs to.
        law: what goes with the phases of slices; None: nothing.
    """

    def __init__(self, xp: Any, resolved: tuple[float, float], depths: Depths, law: TransmissionLaw | None) -> None:
        self.reached: Reached | None = None
        """None: no full pass was made since the start, or since the extrapolated point was left."""
        self.depths, self.law = depths, law
        self.prior = Prior(xp, depths, resolved)
        self.window: Any = None
        """(y, x), corner-centred, 0 to 1: how far a change of the probe stands out of the noise in real space."""

    def in_batch(self, worker: Reconstructor, sums: forward.Sums, step: Step, n: int) -> None:
        """A step with what a mini-batch of n patterns adds up to.

        It moves phases only: amplitudes are small and would mostly take up its noise.
        """
        self._update_object(worker, sums, step.size, phase_only=True)
        if step.probe > 0 and sums.aperture_numerator is not None:
            worker.unknowns.apertures += (step.probe / n) * sums.aperture_numerator * worker.support

    def in_full(self, worker: Reconstructor, sums: forward.Sums, step: Step) -> None:
        """A step with the sums over all patterns, extrapolated after Nesterov; the momentum restarts where it points uphill.

        O'Donoghue & Candès, Found. Comput. Math. 15 (2015) 715, gradient scheme.
        """
        xp, found, modes = worker.backend.xp, worker.unknowns, worker.n_modes
        if self.reached is None:
            self.window = _window(worker)
        last = self.reached or Reached(found.object.copy(), found.apertures.copy(), xp.ones(()), self.numbers)
        before = found.object.copy()
        if worker.phase_only and len(found.object) > 1:
            self._turn_in_depth(worker, sums, step.size)
        else:
            self._update_object(worker, sums, step.size, worker.phase_only)
        self._expect(worker, sums, step.size)
        self._constrain(worker, sums)
        uphill = ((found.object - before).conj() * (found.object - last.object)).real.sum() < 0
        age = xp.where(uphill, 1.0, (1 + xp.sqrt(1 + 4 * last.age**2)) / 2)
        reach = xp.where(uphill, 0.0, (last.age - 1) / age)
        if step.probe > 0:
            change = xp.fft.ifft2(sums.aperture_numerator[:modes] * worker.support) * self.window
            change = xp.fft.fft2(change) * worker.support
            found.apertures[:modes] += (step.probe / len(found.corners)) * change
        displacement = worker.per_pattern.update(found, sums, worker.problem, worker.backend, reach)
        if displacement is not None:
            found.object[...] = _moved(worker, found.object, displacement)
            self._constrain(worker, sums)
            last.object = _moved(worker, last.object, displacement)
        self.reached = Reached(found.object.copy(), found.apertures.copy(), age, self.numbers)
        if self.law is not None:
            self.law.numbers = self.law.numbers + reach * (self.law.numbers - last.numbers)
        reach = reach.astype(np.float32)
        if worker.phase_only:
            half = reach * forward.half_tangent(found.object * last.object.conj(), xp)
            # rounding of the modulus would grow threefold with every pass
            found.object *= forward.turned(half, xp) / xp.abs(found.object)
            self._constrain(worker, sums)
        else:
            found.object += reach * (found.object - last.object)
        if step.probe > 0:
            # variations go without: their weights would have to be extrapolated with them
            found.apertures[:modes] += reach * (found.apertures[:modes] - last.apertures[:modes])

    @property
    def numbers(self) -> Any:
        """Of the slices' law."""
        return None if self.law is None else self.law.numbers

    def _update_object(self, worker: Reconstructor, sums: forward.Sums, size: float, phase_only: bool) -> None:
        """One preconditioned step of every slice; all together they shift the phase by what one slice would."""
        obj, floor = worker.unknowns.object, ILLUMINATION_FLOOR * sums.illumination.max()
        if phase_only:
            worker.backend.turn(obj, sums, size / len(obj), floor, worker.settings.positivity)
        else:
            obj += sums.object_numerator * (np.float32(size / len(obj)) / (sums.illumination + floor))

    def _turn_in_depth(self, worker: Reconstructor, sums: forward.Sums, size: float) -> None:
        """A step of the phases of several slices, divided by what is seen of their depths (`depth`), and of their law."""
        xp, obj, light = worker.backend.xp, worker.unknowns.object, sums.illumination
        slope = obj.conj() * sums.object_numerator
        uphill = slope.imag if self.law is None else self.law.climb(obj, slope, light, size)
        change = uphill / (light + ILLUMINATION_FLOOR * light.max())
        change = self.depths.filtered(change, lambda seen: size / (seen + DAMPING))
        obj *= xp.exp(1j * change)

    def _expect(self, worker: Reconstructor, sums: forward.Sums, size: float) -> None:
        """Let slices differ, or all be what they are, as far as the counts tell."""
        obj, regularise = worker.unknowns.object, worker.settings.regularise
        if regularise or len(obj) > 1:
            obj[...] = self.prior.imposed(obj, sums.illumination, size, worker.phase_only, regularise)

    def _constrain(self, worker: Reconstructor, sums: forward.Sums) -> None:
        """Let slices be what follows from their phases, and no phase below that of vacuum where that is asked for."""
        obj, xp = worker.unknowns.object, worker.backend.xp
        if self.law is not None:
            obj[...] = self.law.imposed(obj, sums.illumination)
        if worker.settings.positivity:
            obj *= xp.exp(-1j * xp.minimum(xp.angle(obj), 0))


def _window(worker: Reconstructor) -> Any:
    """(y, x) s/(s + b), with the expected variance s of a change and that of the noise b, 1/(2n) a pixel, which n patterns leave.

    Where no light falls a change of the probe is noise, and the object's makes up for it: at 3e2 e/Å² it costs a twentieth of
    the error. The steps only get smaller there; what many counts say is found all the same.
    """
    xp = worker.backend.xp
    light = (xp.abs(xp.fft.ifft2(worker.start_probe, norm="ortho")) ** 2).sum(axis=0)
    return (light / (light + 1 / (2 * PROBE_FREEDOM * len(worker.unknowns.corners)))).astype(np.float32)


def _moved(worker: Reconstructor, obj: Any, displacement: Any) -> Any:
    obj = moved(obj, displacement, worker.backend.xp)
    return obj / abs(obj) if worker.phase_only else obj
