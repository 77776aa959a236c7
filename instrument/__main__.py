"""`python -m instrument`: serve a microscope adapter, make keys."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from instrument.errors import InstrumentError, MalformedRequestError
from instrument.keys import ServerKeys, generate_keys
from instrument.microscope import Microscope
from instrument.serve import EXIT_BAD_INPUT, serve
from instrument.text import write_anything


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 for success, 2 for bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m instrument", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("serve", help="put a microscope on the network")
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
    make = commands.add_parser("keys", help="make a CURVE key pair")
    make.add_argument("directory", type=Path)
    make.add_argument("name")
    write_anything()
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "keys":
            for path in generate_keys(arguments.directory, arguments.name):
                print(path)
            return 0
        keys = ServerKeys.load(arguments.secret_key, arguments.clients, arguments.keys)
        microscope = load_adapter(arguments.adapter)
    except InstrumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return serve(
        microscope,
        arguments.state_dir,
        arguments.control,
        safe=arguments.safe,
        data=arguments.data,
        name=arguments.name,
        keys=keys,
    )


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
