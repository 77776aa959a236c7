"""The queue's page: which campaign runs on which instrument, what waits, what needs a person.

It is there to look at; `ptychopilot queue` changes the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from agent.dashboard.page import STYLE, THEME
from agent.dashboard.queue_view import QueueView
from agent.dashboard.roles import Visitor
from agent.status.contract import JobMessage, QueueMessage

TICK_S = 1.0
_COLUMNS = ("job", "state", "turn", "campaign", "instrument", "prio", "proposal", "user", "title", "")


def add_queue_page(visitor_of: Callable[[Request], Visitor | None], queue: QueueView) -> None:
    """Serve the page at /queue.

    Args:
        visitor_of: who makes a request; None: a password is needed.
        queue: what is shown.
    """

    @ui.page("/queue", title="ptychopilot queue", response_timeout=10)
    async def page(request: Request) -> RedirectResponse | None:
        if visitor_of(request) is None:
            return RedirectResponse("/login")
        ui.add_head_html(THEME)
        ui.add_css(STYLE.read_text(encoding="utf-8"))
        box = ui.html(queue_html(*queue.look()), sanitize=False)
        ui.timer(TICK_S, lambda: box.set_content(queue_html(*queue.look())))
        return None


def queue_html(queue: QueueMessage | None, jobs: list[JobMessage]) -> str:
    """The queue as a table.

    Args:
        queue: how many campaigns are in which state; None: nobody has told.
        jobs: in the order in which they are shown.
    """
    if queue is None:
        return '<p class="nothing wide">no queue is seen yet</p>'
    counts = [
        f"{getattr(queue, name)} {name}" for name in ("running", "queued", "interrupted", "held", "done", "failed")
    ]
    if queue.workers is not None:
        counts.append(f"{queue.workers_busy} of {queue.workers} reconstruction processes busy")
    rows = "".join(map(_row, jobs))
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    return (
        f'<main class="queue"><section class="panel"><h2>Queue</h2><p>{escape("; ".join(counts))} · <a href="/">campaigns</a></p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section></main>"
    )


def _row(job: JobMessage) -> str:
    name = escape(job.campaign)
    if job.folder:
        name = f'<a href="/?campaign={quote(Path(job.folder).name, safe="")}">{name}</a>'
    turn = "" if job.turn is None else str(job.turn)
    state = f'<b class="bad">{job.state}</b>' if job.state in ("held", "failed") else escape(job.state)
    told = (job.instrument, job.priority, job.proposal, job.user, job.title, job.reason)
    cells = [str(job.number), state, turn, name, *(escape(str(each)) for each in told)]
    return f'<tr data-job="{job.number}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
