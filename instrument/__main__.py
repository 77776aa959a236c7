"""`python -m instrument`: serve a microscope adapter, test it, watch over its beam, check its ledger, make keys."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from instrument import conformance
from instrument.access import ROLES
from instrument.backup import BACKUP_HELP, copy_ledger
from instrument.errors import BadInputError, InstrumentError, MalformedRequestError
from instrument.keys import ClientKeys, ServerKeys, generate_keys
from instrument.metrics import METRICS_HELP
from instrument.microscope import Microscope
from instrument.serve import EXIT_BAD_INPUT, LEGACY_HELP, WATCHDOG_HELP, serve
from instrument.show_audit import show_audit
from instrument.suspenders import HOLD
from instrument.terms import DRY_RUN_HELP, LIMITS_HELP
from instrument.text import write_anything
from instrument.watchdog import guard_inherited, guard_listening, load_blanker


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 for success, 2 for bad input.
    """
    write_anything()
    arguments = _build_parser().parse_args(argv)
    try:
        return int(arguments.act(arguments))
    except (BadInputError, InstrumentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instrument", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands)
    test = commands.add_parser(
        "check", aliases=["conformance"], help="test an adapter: EXPOSES small scans in the middle of its area"
    )
    test.set_defaults(act=_test)
    test.add_argument("adapter", metavar="MODULE:FACTORY", help="callable without arguments that makes the Microscope")
    amount = test.add_mutually_exclusive_group()
    amount.add_argument("--dose", type=float, help="e/Å² of each scan (default: four times the least that is legal)")
    amount.add_argument("--no-beam", action="store_true", help="only what can be tried with the beam off")
    test.add_argument("--only", default="", metavar="PHRASE", help="only what has this phrase in its line")
    watch = commands.add_parser("watchdog", help="turn the beam off when the server's heartbeat stops")
    watch.set_defaults(act=_watch)
    watch.add_argument("blanker", metavar="MODULE:ATTRIBUTE", help="callable without arguments that turns the beam off")
    way = watch.add_mutually_exclusive_group(required=True)
    way.add_argument("--socket", type=Path, help="UNIX socket at which servers connect")
    way.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    blank = commands.add_parser("blank", help="turn the beam off, once (for ExecStopPost= of systemd)")
    blank.set_defaults(act=_blank)
    blank.add_argument("blanker", metavar="MODULE:ATTRIBUTE", help="callable without arguments that turns the beam off")
    _add_epics(commands)
    _add_audit(commands)
    _add_backup(commands)
    make = commands.add_parser("keys", help="make a CURVE key pair")
    make.set_defaults(act=_make_keys)
    make.add_argument("directory", type=Path)
    make.add_argument("name")
    make.add_argument(
        "--role",
        choices=ROLES,
        default="operator",
        help="what its holder may do where it is admitted: look; expose too; release from SAFE too (default: %(default)s)",
    )
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("serve", help="put a microscope on the network")
    run.set_defaults(act=_serve)
    run.add_argument("adapter", metavar="MODULE:FACTORY", help="callable without arguments that makes the Microscope")
    run.add_argument("--control", default="tcp://127.0.0.1:*", help="control endpoint (default: %(default)s)")
    run.add_argument("--safe", help="endpoint of blank, stop and status (default: a free port)")
    run.add_argument("--data", help="endpoint of the frames (default: a free port)")
    run.add_argument("--state-dir", type=Path, default=Path("instrument-state"), help="ledger (default: %(default)s)")
    run.add_argument("--name", help="name of the instrument (default: its own)")
    run.add_argument("--secret-key", type=Path, help="the server's NAME.key_secret; mandatory off loopback")
    run.add_argument("--clients", type=Path, help="directory with the public keys (*.key) of admitted clients")
    run.add_argument(
        "--keys",
        type=Path,
        metavar="FOLDER",
        help="both in one folder: NAME.key_secret, and clients/*.key (not with the two)",
    )
    run.add_argument(
        "--hold",
        type=float,
        default=HOLD,
        metavar="SECONDS",
        help="for which the column has to be well again before anything is exposed (default: %(default)g)",
    )
    run.add_argument("--backup", type=Path, metavar="FOLDER", help=BACKUP_HELP)
    run.add_argument("--metrics", metavar="PORT|ADDRESS:PORT", help=METRICS_HELP)
    run.add_argument("--watchdog", metavar="BLANKER|SOCKET", help=WATCHDOG_HELP)
    run.add_argument("--legacy-stream", metavar="ENDPOINT", help=LEGACY_HELP)
    run.add_argument("--limits", type=Path, metavar="FILE", help=LIMITS_HELP)
    run.add_argument("--dry-run", action="store_true", help=DRY_RUN_HELP)


def _add_epics(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    epics = commands.add_parser(
        "epics", help="EPICS process variables (PVAccess) for a campaign at an instrument; needs p4p"
    )
    epics.set_defaults(act=_epics)
    epics.add_argument("control", help="control endpoint of the instrument")
    epics.add_argument("--campaign", required=True, help="whose electrons are spent")
    epics.add_argument(
        "--electrons", type=float, required=True, help="of the campaign: most that can be spent over EPICS"
    )
    epics.add_argument("--prefix", default="PTYCHO:", help="of all names (default: %(default)s)")
    epics.add_argument("--interface", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    epics.add_argument("--port", type=int, default=5075, help="TCP port, 0: any (default: %(default)s)")
    epics.add_argument("--keys", type=Path, metavar="FOLDER", help="of the client, where the instrument is elsewhere")


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    trail = commands.add_parser(
        "audit", help="print who did what to a ledger, and check that nothing is missing or changed"
    )
    trail.set_defaults(act=_audit)
    trail.add_argument("state_dir", type=Path, metavar="STATE_DIR", help="of a server, which may run")
    trail.add_argument("--last", type=int, metavar="N", help="print only the last N entries; all are checked")
    trail.add_argument("--json", action="store_true", help="an object a line, with sums and hashes")


def _add_backup(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    copy = commands.add_parser("backup", help="copy the ledger of a server that does not run, or bring a copy back")
    copy.set_defaults(act=_copy)
    copy.add_argument("state_dir", type=Path, metavar="STATE_DIR", help="or a copy of one")
    copy.add_argument("folder", type=Path, metavar="FOLDER", help="that holds no ledger yet")


def _copy(arguments: argparse.Namespace) -> int:
    copy_ledger(arguments.state_dir, arguments.folder)
    print(arguments.folder)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    return serve(
        load_adapter(arguments.adapter),
        arguments.state_dir,
        arguments.control,
        safe=arguments.safe,
        data=arguments.data,
        name=arguments.name,
        keys=ServerKeys.load(arguments.secret_key, arguments.clients, arguments.keys),
        watchdog=arguments.watchdog,
        legacy=arguments.legacy_stream,
        hold=arguments.hold,
        backup=arguments.backup,
        metrics=arguments.metrics,
        limits=arguments.limits,
        dry_run=arguments.dry_run,
    )


def _test(arguments: argparse.Namespace) -> int:
    return conformance.main(
        load_adapter(arguments.adapter), arguments.dose, beam=not arguments.no_beam, only=arguments.only
    )


def _watch(arguments: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s watchdog: %(message)s"
    )
    blank = load_blanker(arguments.blanker)
    if arguments.fd is not None:
        guard_inherited(blank, arguments.fd)
    else:
        guard_listening(blank, arguments.socket)
    return 0


def _blank(arguments: argparse.Namespace) -> int:
    load_blanker(arguments.blanker)()
    return 0


def _epics(arguments: argparse.Namespace) -> int:
    from instrument.facility.epics import provide

    keys = None if arguments.keys is None else ClientKeys.in_folder(arguments.keys)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            provide(
                arguments.control,
                arguments.campaign,
                arguments.electrons,
                arguments.prefix,
                interface=arguments.interface,
                port=arguments.port,
                keys=keys,
            )
        )
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    show_audit(arguments.state_dir, arguments.last, as_json=arguments.json)
    return 0


def _make_keys(arguments: argparse.Namespace) -> int:
    for path in generate_keys(arguments.directory, arguments.name, arguments.role):
        print(path)
    return 0


def load_adapter(specification: str) -> Microscope:
    """Import a microscope adapter and make its microscope.

    Args:
        specification: MODULE:FACTORY; FACTORY is called without arguments.

    Returns:
        The microscope.

    Raises:
        MalformedRequestError: the specification names nothing that can be imported, or no `Microscope`.
    """
    module, separator, attribute = specification.partition(":")
    if not separator:
        msg = f"{specification!r} is not MODULE:FACTORY, like mylab.titan:make_microscope"
        raise MalformedRequestError(msg)
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        msg = f"{specification}: {error}"
        raise MalformedRequestError(msg) from error
    microscope = factory()
    if not isinstance(microscope, Microscope):
        msg = f"{specification} makes a {type(microscope).__name__}, which does not implement instrument.Microscope"
        raise MalformedRequestError(msg)
    return microscope


if __name__ == "__main__":
    sys.exit(main())
