"""The form in which a person writes settings of their own: in place of a suggestion, or for a trial besides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from agent.dashboard.view import View
from agent.status.contract import SettingsMessage

Send = Callable[..., Awaitable[bool]]
"""(verb, **fields) -> whether the command was accepted; says on the page what became of it."""


class SettingsDialog:
    """One form for both.

    Args:
        view: of the campaign, whose last settings are the start.
        send: carries the command to the agent.
    """

    def __init__(self, view: View, send: Send) -> None:
        self._view = view
        self._send = send
        self._trial: int | None = None
        with ui.dialog() as self._dialog, ui.card().classes("keys form"):
            self._title = ui.label("").classes("big")
            self._about = ui.label("").classes("muted")
            self._step = _number("scan step, Å")
            self._defocus = _number("defocus, Å (positive: underfocus)")
            self._dose = _number("dose, e/Å²")
            self._reason = ui.input("why (kept in the journal)").props("dense outlined maxlength=400").classes("wide")
            with ui.element("div").classes("decision"):
                kind = "flat no-caps dense"
                ui.button("SEND", on_click=self._submit, color=None).props(kind).classes("act approve send")
                ui.button("CANCEL", on_click=self._dialog.close, color=None).props(kind).classes("act plain")

    def edit(self, trial: int) -> None:
        """Write what replaces a suggestion.

        Args:
            trial: its number.
        """
        self._trial = trial
        self._open(f"Instead of trial {trial}", "The suggestion is abandoned; yours is acquired next.")

    def own(self) -> None:
        """Write a trial besides."""
        self._trial = None
        self._open("A trial of your own", "It comes next, is paid from exploration's electrons and enters the model.")

    def _open(self, title: str, about: str) -> None:
        self._title.set_text(title)
        self._about.set_text(about)
        shown = _start(self._view, self._trial)
        if shown is not None:
            for field, value in (
                (self._step, shown.step_a),
                (self._defocus, shown.defocus_a),
                (self._dose, shown.dose),
            ):
                field.set_value(float(f"{value:.6g}"))
        self._reason.set_value("")
        self._dialog.open()

    async def _submit(self) -> None:
        fields: dict[str, Any] = {
            "step_a": self._step.value,
            "defocus_a": self._defocus.value,
            "dose": self._dose.value,
            "reason": self._reason.value or "",
        }
        done = (
            await self._send("trial", **fields)
            if self._trial is None
            else await self._send("edit", trial=self._trial, **fields)
        )
        if done:
            self._dialog.close()


def _start(view: View, trial: int | None) -> SettingsMessage | None:
    """The settings that the form begins with."""
    if trial is not None and trial in view.trials:
        return view.trials[trial]
    shown = view.suggestion
    return shown if shown is not None else view.trials.get(max(view.trials, default=0))


def _number(label: str) -> Any:
    return ui.number(label, format="%.6g").props("dense outlined step=any").classes("wide")
