"""The verbs of `ptychopilot` and what their `--help` says. The work is in the modules that each of them imports."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.facility import queue, serve
from agent.cli.options import Debug, EngineOptions, FileOptions, GeometryOptions, TuneOptions, grouped
from agent.cli.studies import study
from agent.cli.twin import twin
from agent.cli.watching import AutonomyLevel, ctl, dashboard, mcp

app = typer.Typer(
    name="ptychopilot",
    help="An autopilot for electron ptychography: it chooses scan step, defocus and dose, reconstructs and scores each "
    "acquisition, and spends an electron budget where it tells most.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(twin, name="twin")
app.add_typer(queue, name="queue")
app.command()(study)


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def _show_no_progress(chosen: bool) -> None:
    if chosen:
        from agent.status.redrawn import SWITCH

        os.environ[SWITCH] = "off"


NoProgress = Annotated[
    bool,
    typer.Option(
        "--no-progress",
        callback=_show_no_progress,
        help="Redraw nothing: what matters is printed line by line (as with PTYCHOPILOT_PROGRESS=off).",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for everything that is written.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file, for machines.")]
Patience = Annotated[
    float, typer.Option("--wait", "--patience", min=0, help="Seconds to wait for an instrument that does not answer.")
]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FOLDER",
        help="CURVE keys: your key pair and the instrument's public key. Without it: `keys:` of the campaign file; for an "
        "instrument on another machine ~/.config/ptychopilot/keys, where it exists.",
    ),
]


Autonomous = Annotated[
    AutonomyLevel,
    typer.Option(
        "--autonomy",
        help="observe: nothing is suggested; advise: suggested, not carried out; confirm: each acquisition after your approval; "
        "auto. Changed while it runs with `ptychopilot ctl` or on the dashboard.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="PORT|ADDRESS:PORT",
        help="Serve http://127.0.0.1:PORT/metrics for Prometheus; ADDRESS:PORT listens elsewhere, where everybody can read it.",
    ),
]
Pool = Annotated[
    Path | None,
    typer.Option(
        "--pool",
        metavar="DIR",
        help="Reconstruct in the processes that `ptychopilot serve DIR` lends to its campaigns.",
    ),
]
CampaignFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A campaign folder.")]


@app.command(context_settings=PASS_ON, add_help_option=False)
def simulate(context: typer.Context) -> None:
    """Serve a simulated microscope: MoS2 and friends, with the faults of a real column. (simulate --help: all options)"""
    _hand_over("simulate", context.args)


@app.command(context_settings=PASS_ON, add_help_option=False)
def replay(context: typer.Context) -> None:
    """Serve a recorded 4D-STEM data set as if it were a microscope. (replay --help: all options)"""
    _hand_over("replay", context.args)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Campaign file to write.")] = Path("campaign.yaml"),
    debug: Debug = False,
) -> None:
    """Write a commented campaign file to start from: every key, its meaning, unit and legal range."""
    from agent.cli.template import write_template

    write_template(path)
    print(f"campaign file: {path.resolve()}")


@app.command()
def run(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="Campaign file, see `ptychopilot init`.")],
    instrument: Annotated[
        str, typer.Option("--instrument", "-i", metavar="tcp://HOST:PORT", help="Control address of the instrument.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell trials, electrons, duration and feasibility; no exposure.")
    ] = False,
    out: Out = None,
    json_file: Json = None,
    keys: Keys = None,
    patience: Patience = 60.0,
    autonomy: Autonomous = AutonomyLevel.auto,
    metrics: Metrics = None,
    pool: Pool = None,
    no_twin: Annotated[
        bool, typer.Option("--no-twin", help="Simulate no columns on idle cores, whatever `exploration.twin` says.")
    ] = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Run a campaign on a microscope (or a simulated one): explore, choose the best settings, take the final picture.

    Everything is written into one campaign folder (--out; otherwise campaigns/NAME-DATE), with a report.html at the end.
    Ctrl-C stops it; `ptychopilot resume` continues.
    """
    from agent.cli import campaigns

    campaigns.run(
        campaign,
        instrument,
        dry_run=dry_run,
        out=out,
        json_file=json_file,
        keys=keys,
        patience=patience,
        debug=debug,
        watched=campaigns.Watched(autonomy.value, metrics, pool),
        twin=not no_twin,
    )


@app.command()
def plan(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="Campaign file, see `ptychopilot init`.")],
    instrument: Annotated[
        str, typer.Option("--instrument", "-i", metavar="tcp://HOST:PORT", help="Control address of the instrument.")
    ],
    json_file: Json = None,
    keys: Keys = None,
    patience: Patience = 60.0,
    debug: Debug = False,
) -> None:
    """Grade a campaign before the first electron: budget, area, time, window, overlap, frame rate, damage, disk, expected score.

    Nothing is reserved or exposed. Exit code 2 where something is bad.
    """
    from agent.cli import campaigns

    if not campaigns.plan(campaign, instrument, json_file, keys, patience):
        raise typer.Exit(2)


@app.command()
def resume(
    folder: CampaignFolder,
    instrument: Annotated[
        str | None,
        typer.Option("--instrument", "-i", metavar="tcp://HOST:PORT", help="If its address has changed since."),
    ] = None,
    json_file: Json = None,
    keys: Keys = None,
    patience: Patience = 60.0,
    autonomy: Autonomous = AutonomyLevel.auto,
    metrics: Metrics = None,
    pool: Pool = None,
    keep_safe: Annotated[
        bool,
        typer.Option("--keep-safe", help="Without a person: an instrument in SAFE is left there, and nothing is done."),
    ] = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Continue a campaign that was stopped, or killed, from its folder. No region is exposed twice."""
    from agent.cli import campaigns

    campaigns.resume(
        folder,
        instrument,
        json_file=json_file,
        keys=keys,
        patience=patience,
        debug=debug,
        watched=campaigns.Watched(autonomy.value, metrics, pool, keep_safe),
    )


@app.command()
@grouped
def reconstruct(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A 4D data set: .h5, .emd, .ndata, .mib, .npy, .raw.")],
    stated: FileOptions,
    geometry: GeometryOptions,
    engine: EngineOptions,
    out: Out = None,
    json_file: Json = None,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Reconstruct one data set: writes the object (HDF5) and a picture of its phase (PNG)."""
    from agent.cli.reconstruct import reconstruct_file

    reconstruct_file(file, out, stated.recording(), engine.choice(), json_file, geometry=geometry.known())


@app.command()
@grouped
def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A 4D data set: .h5, .emd, .ndata, .mib, .npy, .raw.")],
    how: TuneOptions,
    stated: FileOptions,
    geometry: GeometryOptions,
    engine: EngineOptions,
    out: Out = None,
    json_file: Json = None,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Search how one data set is reconstructed best, judged by counts that were held out; ends with a settings file.

    Everything is in one folder (--out; otherwise FILE-tuning). Ctrl-C stops it, --resume goes on, `ptychopilot report` looks.
    """
    from agent.cli.tune import tune_file

    tune_file(file, out, stated.recording(), engine.choice(), geometry.known(), how, json_file)


@app.command()
def report(folder: CampaignFolder, out: Out = None, json_file: Json = None, debug: Debug = False) -> None:
    """Write report.html of a campaign, finished or not: pictures, scores, the model's view, electrons, all trials.

    Of a search (`tune`) it prints where it stands.
    """
    from agent.cli.campaigns import make_report
    from agent.cli.tune import is_search, show_search

    if is_search(folder):
        show_search(folder)
        return

    make_report(folder, out, json_file)


@app.command()
def demo(
    seed: Annotated[
        int, typer.Option(min=0, help="Of the column that is drawn from the zoo, of its noise and of the campaign.")
    ] = 0,
    out: Out = None,
    json_file: Json = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Open neither the dashboard nor the report.")
    ] = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """See it work: a whole campaign on bilayer MoS2 in a simulated column drawn by seed, in minutes, nothing to prepare."""
    from agent.cli import campaigns

    campaigns.demo(seed=seed, out=out, json_file=json_file, browser=not no_browser, debug=debug)


app.command()(dashboard)
app.command()(ctl)
app.command()(mcp)
app.command()(serve)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder, which only you will be able to read.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address under which the broker is reached; may be repeated. Always: this machine."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Only a new certificate of the broker, signed by the folder's authority.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Make all that a facility needs: CURVE keys with roles, certificates and passwords for the broker and the page."""
    from agent.cli import keys as making

    hosts = [*(host or []), "localhost", "127.0.0.1", "::1"]
    (making.renew if renew else making.make_keys)(folder, hosts)
    print(
        f"{'new certificate of the broker' if renew else 'keys'} in {folder.resolve()}; see deploy/README.md for what goes where"
    )


@app.command()
def backup(
    folder: CampaignFolder,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder.")],
    debug: Debug = False,
) -> None:
    """Copy a campaign, also while it runs. To restore it, copy it back, or `resume` the copy."""
    from agent.storage.backup import back_up

    print(f"{back_up(folder, target)} files in {target.resolve()}")


@app.command()
def doctor(
    instrument: Annotated[
        str | None, typer.Option("--instrument", "-i", metavar="tcp://HOST:PORT", help="Try to reach this instrument.")
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option("--mqtt", metavar="HOST[:PORT]", help="Try to reach this MQTT broker.")
    ] = None,
    keys: Keys = None,
    patience: Patience = 5.0,
    debug: Debug = False,
) -> None:
    """Check this machine: what is installed, is there a GPU, free disk, can instrument and broker be reached."""
    from agent.cli.checks import show_checks

    raise typer.Exit(show_checks(instrument, mqtt, patience, keys))


def _hand_over(verb: str, arguments: list[str]) -> None:
    """Become the instrument's own process: agent and instrument know each other over the wire only."""
    os.execv(sys.executable, [sys.executable, "-m", "sim_instrument", verb, *arguments])
