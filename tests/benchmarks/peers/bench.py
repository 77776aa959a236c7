"""All peers and ours on the same recordings, one after another, then the table: `make bench-peers`.

For each recording every peer is traced (error after each pass, in a warm process, the scoring not timed), then ours. Its
own target is a peer's best error + 5 %. Then everybody runs once more from a fresh process, with as many passes as its
target needs, and the wall-clock from the start of the process to its end counts: imports, reading the file, set-up.

    python bench.py [--peers py4dstem ptyrad …] [--steps 1.5 0.8] [--doses 1e3 1e4 1e6] [--also 1e2 1e5] [--seconds 60] [--warm]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import table
from harness import append
from intensities import PROPAGATOR
from recording import read
from score import evaluate

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PEERS = ("py4dstem", "ptyrad", "ptychi", "quantem", "phaser")
NAMES = {
    "py4dstem": "py4DSTEM",
    "ptyrad": "PtyRAD",
    "ptychi": "pty-chi",
    "quantem": "quantem",
    "phaser": "phaser",
    "ours": "ptychopilot",
}
FRESH_REPEATS = 3
"""Of ours; a peer's fresh run takes long enough to be its own average."""


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment."""
    return sys.executable if peer == "ours" else str(ROOT / ".peers" / peer / "bin" / "python")


TUNED: dict[str, dict[float, list[dict[str, Any]]]] = {
    "py4dstem": {1e3: [{"step": 0.5}], 1e4: [{"step": 1.0}], 1e6: [{"step": 1.5}]},
    "ptyrad": {
        1e3: [{"lr": 0.1, "positivity": True}],
        1e4: [{"lr": 0.1, "positivity": True, "batch": 64}, {"lr": 0.1, "positivity": True}],
        1e6: [{"lr": 0.1, "positivity": True}],
    },
    "ptychi": {
        1e3: [{"noise": "poisson", "batch": 25}],
        1e4: [{"noise": "poisson", "batch": 25}, {"noise": "gaussian", "batch": 100}],
        1e6: [{"noise": "gaussian", "batch": 50}],
    },
    "quantem": {
        1e3: [{"loss": "poisson", "lr_object": 0.1}],
        1e4: [{"loss": "poisson", "lr_object": 0.08}, {"loss": "l2_amplitude", "lr_object": 0.05}],
        1e6: [{"loss": "l2_amplitude", "lr_object": 0.05}],
    },
    "phaser": {
        1e3: [{"noise": "poisson", "eps": 1e-3, "lr": 0.1, "amplitude": 1.0}],
        1e4: [{"noise": "poisson", "eps": 1e-3, "lr": 0.1, "amplitude": 1.0}],
        1e6: [{"noise": "poisson", "eps": 1e-3, "lr": 0.05, "amplitude": 1.0}],
    },
}
"""peer -> dose -> options of its runner, found by a search on the recordings of 441 positions: those that gave the lowest error,
and where others are at their own best much sooner, those too. A package's own defaults are far from this: at 1e4 e/Å² PtyRAD's
reach 0.68, not 0.30."""


def tuned(peer: str, dose: float) -> list[dict[str, Any]]:
    """Options for a dose: those found at the nearest, the lower where two are as near."""
    return TUNED[peer][min(TUNED[peer], key=lambda known: abs(np.log(known / dose)))]


class RunnerError(Exception):
    """A runner failed; the message ends with what it said."""


def run(peer: str, command: list[str], limit: float) -> tuple[float, str]:
    """Run a runner to its end: (wall-clock seconds from before its start, last line of what it printed)."""
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [python_of(peer), str(HERE / f"run_{peer}.py"), *command],
            env=os.environ | {"MPLBACKEND": "Agg"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{NAMES[peer]} {command[0]}: not done after {limit:.0f} s"
        raise RunnerError(msg) from error
    seconds = time.perf_counter() - started
    if done.returncode:
        msg = f"{NAMES[peer]} {command[0]}: exit {done.returncode}: {done.stderr.strip()[-600:]}"
        raise RunnerError(msg)
    return seconds, done.stdout.strip().splitlines()[-1]


def trace(peer: str, file: Path, out: Path, options: dict[str, Any], limit: float, repeats: int) -> None:
    """Append the trace of one engine to `out`."""
    command = ["trace", str(file), str(out), "--options", json.dumps(options), "--seconds", str(limit)]
    # scoring, the warm-up pass and the pass that goes over the limit come on top
    _, last = run(peer, [*command, "--repeats", str(repeats)], limit=4 * limit * repeats + 180)
    print(last, flush=True)


def fresh(peer: str, file: Path, out: Path, options: dict[str, Any], passes: int, repeats: int) -> float:
    """Append one engine's time from a fresh process to `out`; returns the error of the picture it made."""
    picture = out.parent / f"{peer}.npz"
    command = ["fresh", str(file), str(picture), "--options", json.dumps(options), "--passes", str(passes)]
    runs = [run(peer, command, limit=900) for _ in range(repeats)]
    with np.load(picture) as made:
        score = evaluate(made["phase"], tuple(made["first"]), read(file))
    seconds = float(np.median([seconds for seconds, _ in runs]))
    peak = max(json.loads(last)["peak_mb"] for _, last in runs)
    append(
        out,
        "fresh",
        NAMES[peer],
        file.stem,
        options=options,
        passes=passes,
        seconds=seconds,
        peak_mb=peak,
        nrmse=score.nrmse,
        scale=score.scale,
    )
    print(f"{NAMES[peer]} {file.stem} fresh, {passes} passes: {seconds:.2f} s, NRMSE {score.nrmse:.4f}", flush=True)
    return score.nrmse


def bench(file: Path, peers: list[str], out: Path, limit: float, fresh_too: bool) -> None:
    """Everybody on one recording; `fresh_too`: from fresh processes as well."""
    dose = read(file).dose
    jobs = [(peer, options) for peer in peers for options in tuned(peer, dose)]
    for peer, options in (*jobs, ("ours", {})):
        try:
            trace(peer, file, out, options, limit, FRESH_REPEATS if peer == "ours" else 1)
        except RunnerError as error:
            print(error, flush=True)
    if not fresh_too:
        return
    ours = table.trace_of(out, file.stem, NAMES["ours"], {})
    for peer, options in jobs:
        traced = table.trace_of(out, file.stem, NAMES[peer], options)
        if traced is None:
            continue
        target, row = table.own_target(traced)
        try:
            fresh(peer, file, out, options, row["pass"], 1)
            if ours is not None:
                fresh_ours(file, out, target, ours)
        except RunnerError as error:
            print(error, flush=True)


def fresh_ours(file: Path, out: Path, target: float, traced: dict[str, Any]) -> None:
    """Ours to an error of `target`; a pass more where fewer passes in all change the schedule for the worse."""
    reached = table.first_below(traced["rows"], target)
    if reached is None:
        return
    for passes in range(max(1, reached["pass"]), traced["rows"][-1]["pass"] + 1):
        made = table.fresh_lines(table.load(out, file.stem), NAMES["ours"], {})
        known = [line["nrmse"] for line in made if line["passes"] == passes]
        error = known[0] if known else fresh("ours", file, out, {}, passes, FRESH_REPEATS)
        if error <= target:
            return


def proof(folder: Path, peers: list[str]) -> None:
    """Print how the peers' forward models agree with ours (intensities.py)."""
    script = str(HERE / "intensities.py")
    environment = os.environ | {"MPLBACKEND": "Agg"}
    subprocess.run([sys.executable, script, "make", str(folder)], check=True)
    for peer in peers:
        if peer in PROPAGATOR:
            answer = subprocess.run(
                [python_of(peer), script, peer, str(folder)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if answer.returncode:
                print(f"{NAMES[peer]} intensities: {answer.stderr.strip()[-600:]}", flush=True)
    subprocess.run([sys.executable, script, "compare", str(folder)], check=False)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--steps", nargs="+", default=["1.5", "0.8"])
    parser.add_argument("--doses", nargs="+", default=["1e3", "1e4", "1e6"])
    parser.add_argument(
        "--also", nargs="*", default=["1e2", "1e5"], help="traced at the first step only, for `make limit`"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of passes in a trace, at most")
    parser.add_argument("--warm", action="store_true", help="no runs from fresh processes")
    parser.add_argument("--results", type=Path, help="append to this file instead of starting a new one")
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers")
    chosen = parser.parse_args()
    recordings, results = chosen.folder / "data", chosen.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    proof(results / "intensities", chosen.peers)
    # in a process of its own, so that abTEM's threads and memory are gone when the clock runs
    for steps, doses in ((chosen.steps, chosen.doses), (chosen.steps[:1], chosen.also)):
        arguments = [str(recordings), "--steps", *steps, "--doses", *doses]
        if doses:
            subprocess.run([sys.executable, str(HERE / "data.py"), *arguments], check=True)
    out = chosen.results or results / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"load average {load:.1f}: the machine is not idle, times are not to be trusted", flush=True)
    wanted = {f"s{float(step):g}_c200_d{float(dose):g}.h5" for step in chosen.steps for dose in chosen.doses}
    for_the_figure = {f"s{float(chosen.steps[0]):g}_c200_d{float(dose):g}.h5" for dose in chosen.also} - wanted
    for file in sorted(recordings.glob("*.h5"), key=lambda path: path.stat().st_size):
        if file.name in wanted | for_the_figure:
            bench(file, chosen.peers, out, chosen.seconds, file.name in wanted and not chosen.warm)
    print(table.text(out))


if __name__ == "__main__":
    main()
