"""PtyRAD: Adam on the Poisson likelihood."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import harness
import numpy as np
from numpy.typing import NDArray
from recording import Recording

DEFAULTS = {"batch": 32, "lr": 5e-3, "lr_amplitude": 5e-3, "lr_probe": 1e-4, "loss": "poisson", "positivity": False}


def parameters(recording: Recording, chosen: dict[str, Any], passes: int) -> dict[str, Any]:
    """The job in PtyRAD's own terms: its template `standard` with another loss and learning rate."""
    n_positions, n_pixels = recording.n**2, recording.patterns.shape[-1]
    every = {"start_iter": 1, "step": 1}
    constraints: dict[str, Any] = {
        "ortho_pmode": every,
        "fix_probe_int": every,
        "obja_thresh": {**every, "relax": 0, "thresh": [0.96, 1.04]},
    }
    if chosen["positivity"]:
        constraints["objp_postiv"] = {**every, "relax": 0}
    return {
        "init_params": {
            "probe_kv": recording.voltage / 1e3,
            "probe_conv_angle": recording.semiangle,
            "probe_aberrations": {"C10": recording.c10},
            "meas_Npix": n_pixels,
            "pos_N_scan_slow": recording.n,
            "pos_N_scan_fast": recording.n,
            "pos_N_scans": n_positions,
            "pos_scan_step_size": recording.step,
            "pos_scan_rand_std": None,  # by default known positions are jittered
            "probe_pmode_max": 1,
            "obj_Nlayer": 1,
            "obj_slice_thickness": 6.15,
            "meas_calibration": {"mode": "dx", "value": recording.pixel_size},
            "meas_reshape": [n_positions, n_pixels, n_pixels],
            "meas_params": {"path": str(recording.path.resolve()), "key": "patterns"},
        },
        "recon_params": {
            "NITER": passes,
            "BATCH_SIZE": {"size": chosen["batch"], "grad_accumulation": 1},
            "SAVE_ITERS": None,
            "GROUP_MODE": "random",
            "compiler_configs": {"enable": False},
        },
        "model_params": {
            "update_params": {
                "obja": {"start_iter": 1, "lr": chosen["lr_amplitude"]},
                "objp": {"start_iter": 1, "lr": chosen["lr"]},
                "probe": {"start_iter": 1, "lr": chosen["lr_probe"]},
                "probe_pos_shifts": {"start_iter": None, "lr": 0},
            }
        },
        "loss_params": {
            "loss_single": {"state": chosen["loss"] == "amplitude", "weight": 1.0, "dp_pow": 0.5},
            "loss_poissn": {"state": chosen["loss"] == "poisson", "weight": 1.0, "dp_pow": 1.0, "eps": 1e-6},
            "loss_sparse": {"state": False, "weight": 0.1, "ln_order": 1},
        },
        "constraint_params": constraints,
    }


def without_plotting() -> None:
    """PtyRAD 1.0.0 says Python >= 3.10, but a quoted f-string in its plots is a syntax error before 3.12."""
    if sys.version_info >= (3, 12):
        return
    for name, function in (("basic", "plot_pos_grouping"), ("model", "plot_summary")):
        module = ModuleType(f"ptyrad.plotting.{name}")
        setattr(module, function, lambda *_plotted, **_options: None)
        sys.modules[module.__name__] = module


def reconstruct(recording: Recording, options: dict[str, Any], passes: int, clock: harness.Clock) -> None:
    """See `harness`."""
    import torch
    import torchvision_shim  # noqa: F401

    without_plotting()
    from ptyrad.core import PtychoModel
    from ptyrad.params import PtyRADParams
    from ptyrad.solver import PtyRADSolver
    from ptyrad.solver.reconstruction import (
        compute_loss,
        create_optimizer,
        prepare_recon,
        recon_step,
        toggle_grad_requires,
    )

    job = PtyRADParams(**parameters(recording, DEFAULTS | options, passes)).model_dump()
    solver = PtyRADSolver(job, device="cpu", seed=1)
    model = PtychoModel(solver.init.init_variables, job["model_params"], device="cpu")
    optimizer = create_optimizer(model.optimizer_params, model.optimizable_params)
    _, batches, _ = prepare_recon(model, solver.init, job)
    batches = [torch.from_numpy(batch) for batch in batches]
    shift = model.opt_probe_pos_shifts[0].detach().numpy()
    first = model.crop_pos[0].numpy() + shift + recording.patterns.shape[-1] // 2

    def picture() -> tuple[NDArray[Any], tuple[float, float]]:
        return model.opt_objp.detach().numpy()[0].sum(axis=0).astype(np.float64), (float(first[0]), float(first[1]))

    clock.ready()
    for number in range(1, passes + 1):
        toggle_grad_requires(model, number)
        recon_step(
            batches,
            1,
            model,
            optimizer,
            None,
            solver.loss_fn,
            solver.constraint_fn,
            number,
            acc=None,
            compute_loss_fn=compute_loss,
        )
        if not clock.after_pass(number, picture):
            return


if __name__ == "__main__":
    harness.main("PtyRAD", ["ptyrad", "torch", "numpy"], reconstruct)
