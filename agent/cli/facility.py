"""What `serve` and `queue` are called with, and what their `--help` says. The work is in `agent.cli.serving`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import Debug

queue = typer.Typer(help="The campaigns of a facility: add, list, move, cancel. `ptychopilot serve` runs them.")

Facility = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the facility: queue, campaigns, logs.")]
Number = Annotated[int, typer.Argument(metavar="JOB", min=1, help="Number of the job, as `queue list` has it.")]


def serve(
    folder: Facility,
    instrument: Annotated[
        list[str] | None,
        typer.Option(
            "--instrument", "-i", metavar="NAME=tcp://HOST:PORT", help="One for each; remembered in the queue."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Reconstructions at the same time, of all campaigns.")
    ] = 1,
    gpus: Annotated[str, typer.Option(metavar="0,1", help="GPUs that the workers share by turns.")] = "",
    dask: Annotated[
        str | None, typer.Option(metavar="tls://HOST:8786", help="Reconstruct on this Dask cluster instead.")
    ] = None,
    slurm: Annotated[
        int | None,
        typer.Option(metavar="JOBS", min=1, help="Reconstruct in so many SLURM jobs instead, see `tune --slurm`."),
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option("--mqtt", metavar="mqtts://[USER@]HOST[:PORT]", help="Publish the queue there.")
    ] = None,
    site: Annotated[str, typer.Option(help="mqtt: the facility's name in the topics.")] = "site",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mqtt: password of the user, and nothing else.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mqtt: certificate of the broker's authority.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FOLDER", help="CURVE keys for the instruments, see `run`.")
    ] = None,
    patience: Annotated[
        float,
        typer.Option("--wait", min=0, help="Seconds that a campaign waits for an instrument that does not answer."),
    ] = 60.0,
    debug: Debug = False,
) -> None:
    """Run the campaigns of a queue on one or several instruments, which share the reconstruction processes.

    Each campaign is a process of its own, as by `ptychopilot run`. Ctrl-C lets them end what they do now, and the next `serve`
    resumes them; a second one stops them at once. If `serve` is killed they go on, and the next one takes them over.
    """
    from agent.cli.serving import serve_queue

    broker = {"password_file": password_file, "ca_file": ca}
    pool = (workers, [each for each in gpus.split(",") if each], dask, slurm)
    serve_queue(folder, instrument or [], pool, (mqtt, site, broker), keys, patience, debug=debug)


@queue.command()
def add(
    folder: Facility,
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="Campaign file, see `ptychopilot init`.")],
    instrument: Annotated[
        str, typer.Option("--instrument", "-i", metavar="NAME", help="Which one; needed where there are several.")
    ] = "",
    priority: Annotated[int, typer.Option(help="Higher comes first.")] = 0,
    proposal: Annotated[
        str, typer.Option(help="The facility's number for the beam time. Without it: metadata.proposal.")
    ] = "",
    user: Annotated[str, typer.Option(help="Whose campaign it is. Without it: metadata.operator.")] = "",
    title: Annotated[str, typer.Option(help="Of the proposal. Without it: metadata.sample.")] = "",
    debug: Debug = False,
) -> None:
    """Put a campaign into the queue. The file is read now; what becomes of it later changes nothing."""
    from agent.cli.serving import add_job

    add_job(folder, campaign, instrument, priority=priority, proposal=proposal, user=user, title=title)


@queue.command("list")
def list_(
    folder: Facility,
    everything: Annotated[bool, typer.Option("--all", help="Also what has ended.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the jobs to this file, for machines.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what runs on which instrument, and what waits, in the order in which its turn comes."""
    from agent.cli.serving import list_jobs

    list_jobs(folder, everything=everything, json_file=json_file)


@queue.command()
def show(folder: Facility, job: Number, debug: Debug = False) -> None:
    """Show one job: whose, where its folder is, and what has become of it."""
    from agent.cli.serving import show_job

    show_job(folder, job)


@queue.command()
def cancel(
    folder: Facility,
    job: Number,
    reason: Annotated[str, typer.Option(help="Kept in the queue.")] = "",
    debug: Debug = False,
) -> None:
    """Take a job out of the queue; one that runs is stopped at once, with the beam off."""
    from agent.cli.serving import cancel_job

    cancel_job(folder, job, reason)


@queue.command()
def move(
    folder: Facility,
    job: Number,
    priority: Annotated[int | None, typer.Option(help="The new one; higher comes first.")] = None,
    before: Annotated[int | None, typer.Option(metavar="JOB", help="Right before this one, with its priority.")] = None,
    debug: Debug = False,
) -> None:
    """Give a queued job another turn."""
    from agent.cli.serving import move_job

    move_job(folder, job, priority, before)


@queue.command()
def resume(folder: Facility, job: Number, debug: Debug = False) -> None:
    """Let a job go on that is held, has failed or was cancelled, after you had a look.

    An instrument in SAFE is released in your name: look at the microscope first.
    """
    from agent.cli.serving import resume_job

    resume_job(folder, job)
