# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m sim_instrument`: a simulated microscope, or a recording played back, on the network; exposures for studies."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instrument import InstrumentError
from instrument.backup import BACKUP_HELP
from instrument.endpoints import require_free
from instrument.errors import BadInputError
from instrument.keys import ServerKeys
from instrument.metrics import METRICS_HELP
from instrument.microscope import Microscope
from instrument.serve import EXIT_BAD_INPUT, LEGACY_HELP, WATCHDOG_HELP, serve
from instrument.terms import DRY_RUN_HELP, LIMITS_HELP
from instrument.text import write_anything

EXIT_STOPPED = 4
_COSTS = """\
Every fault is a number; 0 switches it off. Agents are told nominal values only.

What a switch costs: processor time in s for 40 × 40 positions of 128² at a defocus of 500 Å. Two cores share it, so the
wait is about half. Measured with tests/benchmarks/test_bench_simulator.py on a busy machine (AMD EPYC, Zen 4).
  no fault                          4.5
  + source size 0.5 Å               7      each row below has it too
  + source size 1 Å instead        17      more coherent modes carry the same part of the intensity
  + energy spread 0.3 eV            9.5
  + phonons 4                      17      0.4 % error of a pattern (relative L1); 1: 3 %, 2: 0.6 %, 8: 0.3 %
  + defocus 800 Å instead          18      a wider window
  + knock-on 1.8 barn               8      more when sulphur leaves during the scan: up to 15 new potentials
  + aberrations, drift, jitter, rotation, point spread, bad pixels, pixel area: each within the scatter, 1
Errors (relative L1 of a pattern): source and energy spread 1 %, window 2.5 %, one slice per layer 0.5 %.
"""
_CHAOS = (
    "go wrong on purpose, for trying an agent: drop, dup (chance of a frame to be lost, doubled on the wire), late (s by which "
    "one frame of a scan is), lag (frames by which positions are), nan (part of the pixels with rubbish), die_after (frames to "
    "kill -9), flicker (rms); like drop=0.01,dup=0.01,late=2s,lag=1,nan=1e-6,die_after=5000,flicker=0.1"
)
_SIMULATE = (
    "Serve a simulated microscope: specimen and column of a zoo, by default a bilayer MoS2 at 80 kV with real faults."
)
_REPLAY = (
    "Serve a recorded 4D-STEM data set as an instrument: step in multiples of the recorded one, any lower dose by "
    "drawing counts without replacement, any part of the field, fixed defocus."
)
_EXPOSE = (
    "Expose plans with columns of a list, without limits, clock or network, and tell the truth beside the counts: for "
    "`ptychopilot study`. Takes plans on standard input, see sim_instrument/exposures.py."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 after a signal, 2 for bad input, 4 for Ctrl-C before it was ready.
    """
    write_anything()
    arguments = build_parser().parse_args(argv)
    if arguments.verb == "expose":
        return _expose(arguments)
    try:
        keys = ServerKeys.load(arguments.secret_key, arguments.clients, arguments.keys)
        # Before a specimen is built and abTEM loaded, which take seconds.
        require_free(*filter(None, (arguments.control, arguments.safe, arguments.data)))
        microscope = arguments.make(arguments)
    except (InstrumentError, BadInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C before it was ready", file=sys.stderr)
        return EXIT_STOPPED
    try:
        return serve(
            microscope,
            arguments.state_dir,
            arguments.control,
            safe=arguments.safe,
            data=arguments.data,
            name=arguments.name,
            keys=keys,
            watchdog=arguments.watchdog,
            legacy=arguments.legacy_stream,
            backup=arguments.backup,
            metrics=arguments.metrics,
            data_faults=arguments.data_faults,
            limits=arguments.limits,
            dry_run=arguments.dry_run,
        )
    finally:
        microscope.close()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    from sim_instrument.options import add_options
    from sim_instrument.recording_options import add_recording_options

    parser = argparse.ArgumentParser(prog="python -m sim_instrument", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    simulate = verbs.add_parser(
        "simulate", description=_SIMULATE, epilog=_COSTS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    simulate.set_defaults(make=_simulated, data_faults=None)
    _add_serving(simulate, Path("simulator-state"))
    simulate.add_argument("--seed", type=int, default=0, help="of specimen, jitter, noise (default: %(default)s)")
    simulate.add_argument(
        "--real-time", action="store_true", help="honour dwell, flyback and settling on the clock (default: fast)"
    )
    simulate.add_argument(
        "--truth", type=Path, metavar="FILE", help="write projected potential, phase and true parameters (HDF5) first"
    )
    simulate.add_argument(
        "--beam-file",
        type=Path,
        metavar="FILE",
        help="shows the beam, on or off; --watchdog sim_instrument.beam_file:blank turns it off there",
    )
    simulate.add_argument("--chaos", metavar="NAME=NUMBER,…", help=_CHAOS)
    add_options(simulate)

    replay = verbs.add_parser("replay", description=_REPLAY)
    replay.set_defaults(make=_replayed, data_faults=None)
    replay.add_argument("file", type=Path, metavar="FILE", help="the recording")
    _add_serving(replay, Path("replay-state"))
    replay.add_argument("--seed", type=int, default=0, help="of which counts are drawn (default: %(default)s)")
    replay.add_argument(
        "--reuse",
        action="store_true",
        help="draw every acquisition from the whole recording; repeats share counts then",
    )
    add_recording_options(replay)

    study = verbs.add_parser("expose", description=_EXPOSE)
    study.add_argument("folder", type=Path, metavar="FOLDER", help="where the files of exposures go")
    study.add_argument("--columns", type=Path, metavar="FILE", help="a list of columns (default: drawn by seed)")
    study.add_argument("--count", type=int, default=1, help="how many are drawn (default: %(default)s)")
    study.add_argument("--first-seed", type=int, default=1000, help="of those drawn (default: %(default)s)")
    return parser


def _add_serving(parser: argparse.ArgumentParser, state_dir: Path) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--control", default="tcp://127.0.0.1:*", metavar="ENDPOINT", help="(default: %(default)s)")
    group.add_argument("--safe", metavar="ENDPOINT", help="of blank, stop and status (default: a free port)")
    group.add_argument("--data", metavar="ENDPOINT", help="of the frames (default: a free port)")
    group.add_argument("--name", help="of the instrument (default: its own)")
    group.add_argument("--secret-key", type=Path, metavar="FILE", help="CURVE key; mandatory off loopback")
    group.add_argument("--clients", type=Path, metavar="DIR", help="public keys of admitted clients")
    group.add_argument("--backup", type=Path, metavar="FOLDER", help=BACKUP_HELP)
    group.add_argument("--metrics", metavar="PORT|ADDRESS:PORT", help=METRICS_HELP)
    group.add_argument("--watchdog", metavar="BLANKER|SOCKET", help=WATCHDOG_HELP)
    group.add_argument("--legacy-stream", metavar="ENDPOINT", help=LEGACY_HELP)
    group.add_argument("--limits", type=Path, metavar="FILE", help=LIMITS_HELP)
    group.add_argument("--dry-run", action="store_true", help=DRY_RUN_HELP)
    group.add_argument(
        "--keys", type=Path, metavar="FOLDER", help="both: NAME.key_secret and clients/*.key in one folder"
    )
    group.add_argument(
        "--state-dir",
        "--state",
        type=Path,
        default=state_dir,
        metavar="DIR",
        help="what survives the process: electrons spent, what was exposed (default: %(default)s)",
    )


def _expose(arguments: argparse.Namespace) -> int:
    from sim_instrument.exposures import entries_of, expose

    try:
        expose(entries_of(arguments.columns, arguments.count, arguments.first_seed), arguments.folder)
    except (BadInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_STOPPED
    return 0


def _simulated(arguments: argparse.Namespace) -> Microscope:
    from sim_instrument.beam_file import VARIABLE
    from sim_instrument.microscope import SimulatedMicroscope
    from sim_instrument.options import column_from, specimen_from

    if arguments.beam_file is not None:
        os.environ[VARIABLE] = str(arguments.beam_file.resolve())
    kind: type[SimulatedMicroscope] = SimulatedMicroscope
    options: dict[str, Any] = {}
    if arguments.chaos is not None:
        from sim_instrument.chaos import ChaoticMicroscope, ChaoticWire, chaos_from

        chaos = chaos_from(arguments.chaos)
        arguments.data_faults = ChaoticWire(chaos, arguments.seed)
        kind, options = ChaoticMicroscope, {"chaos": chaos}
    microscope = kind(
        specimen_from(arguments),
        column_from(arguments),
        state_dir=arguments.state_dir,
        beam_file=arguments.beam_file,
        seed=arguments.seed,
        real_time=arguments.real_time,
        **options,
    )
    if arguments.truth is not None:
        from sim_instrument.truth import write_truth

        write_truth(arguments.truth, microscope.specimen, microscope.column)
    microscope.warm_up(wait=arguments.watchdog is not None)
    return microscope


def _replayed(arguments: argparse.Namespace) -> Microscope:
    from sim_instrument.recording_options import geometry_from, recording_options_from
    from sim_instrument.replay import ReplayMicroscope

    options = recording_options_from(arguments)
    return ReplayMicroscope(
        arguments.file,
        arguments.state_dir,
        options,
        geometry=geometry_from(arguments),
        seed=arguments.seed,
        reuse=arguments.reuse,
    )


if __name__ == "__main__":
    sys.exit(main())
