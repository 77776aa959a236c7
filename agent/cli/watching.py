"""What `dashboard` and `ctl` are called with, and what their `--help` says. The work is in `agent.cli.dashboard`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import Debug


class Order(StrEnum):
    """What `ctl` gives to a campaign."""

    pause = "pause"
    resume = "resume"
    stop = "stop"
    approve = "approve"
    veto = "veto"
    edit = "edit"
    trial = "trial"
    autonomy = "autonomy"
    blank = "blank"


class Parameter(StrEnum):
    """A setting."""

    step = "step"
    defocus = "defocus"
    dose = "dose"
    semiangle = "semiangle"


class AutonomyLevel(StrEnum):
    """How much a campaign does by itself."""

    observe = "observe"
    advise = "advise"
    confirm = "confirm"
    auto = "auto"


Broker = Annotated[
    str | None,
    typer.Option(
        "--mqtt", metavar="mqtts://[USER@]HOST[:PORT]", help="The broker that agents publish to; ws:// and wss:// too."
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--campaign", metavar="DIR", help="A campaign's folder, or one that holds some.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="Password of the broker's user, and nothing else."),
]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Certificate of the broker's authority. Without it: the system's."),
]


def dashboard(
    mqtt: Broker = None,
    campaign: Folder = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of the page; 0: a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond this machine passwords are needed.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say the address.")] = False,
    viewer_password: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Password of those who may look, and nothing else.")
    ] = None,
    operator_password: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Password of those who may command, and nothing else.")
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A reverse proxy that knows who somebody is; its headers are believed, nobody else's. May be repeated.",
        ),
    ] = None,
    groups_header: Annotated[
        str, typer.Option(metavar="NAME", help="The proxy's header with a person's groups; its user: Remote-User.")
    ] = "Remote-Groups",
    operator_group: Annotated[
        str, typer.Option(metavar="GROUP", help="The group that may command; whoever else the proxy lets in may look.")
    ] = "ptychopilot-operators",
    password_file: PasswordFile = None,
    ca: Authority = None,
    debug: Debug = False,
) -> None:
    """Watch campaigns in a browser, and steer them: from their folder, or from a broker. Reading disturbs nobody."""
    from agent.cli.dashboard import show

    show(
        mqtt,
        campaign,
        host,
        port,
        browser=not no_browser,
        passwords=(viewer_password, operator_password),
        proxy=(proxy or [], groups_header, operator_group),
        broker={"password_file": password_file, "ca_file": ca},
        debug=debug,
    )


def mcp(campaign: Folder = None, debug: Debug = False) -> None:
    """Let a language model read a campaign and propose settings (Model Context Protocol, standard input and output).

    It can do nothing else; a person approves of a proposal on the page, or with `ptychopilot ctl approve --proposal N`.
    """
    from agent.cli.dashboard import advise

    advise(campaign)


def ctl(
    verb: Annotated[Order, typer.Argument(help="What the campaign is to do.")],
    campaign: Folder = None,
    mqtt: Broker = None,
    trial: Annotated[int | None, typer.Option(help="approve, veto, edit: which.")] = None,
    proposal: Annotated[int | None, typer.Option(help="approve, veto: which proposal.")] = None,
    step: Annotated[float | None, typer.Option(help="edit, trial: Å.")] = None,
    defocus: Annotated[float | None, typer.Option(help="edit, trial: Å, positive for underfocus.")] = None,
    dose: Annotated[float | None, typer.Option(help="edit, trial: e/Å².")] = None,
    semiangle: Annotated[float | None, typer.Option(help="edit, trial: mrad, where apertures are offered.")] = None,
    job: Annotated[
        int | None, typer.Option(help="Where --campaign names a facility's folder: which job of its queue.")
    ] = None,
    level: Annotated[AutonomyLevel | None, typer.Option(help="autonomy: the new one.")] = None,
    parameter: Annotated[Parameter | None, typer.Option(help="autonomy: over this setting alone.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the journal.")] = "",
    password_file: PasswordFile = None,
    ca: Authority = None,
    debug: Debug = False,
) -> None:
    """Steer a running campaign from a shell: what the dashboard's buttons do.

    `edit` replaces a suggestion that waits, `trial` asks for one more with settings of your own; both must be legal and are paid
    from the same budget. `resume` ends a pause; an instrument in SAFE is released by `ptychopilot resume DIR`. Over MQTT autonomy
    and dose can only be lowered.
    """
    from agent.cli.dashboard import control

    files = {"password_file": password_file, "ca_file": ca}
    fields: dict[str, object] = {
        "trial": trial,
        "proposal": proposal,
        "level": level,
        "parameter": parameter,
        "reason": reason,
    }
    fields |= {"step_a": step, "defocus_a": defocus, "dose": dose, "semiangle_mrad": semiangle}
    control(verb.value, mqtt, campaign, files, job, **fields)
