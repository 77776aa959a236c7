"""The page itself: where the panels are, what the buttons and keys do, and when something is drawn again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from nicegui import ui
from nicegui.events import KeyEventArguments

from agent.dashboard import charts, panels
from agent.dashboard.commanding import Commander
from agent.dashboard.gallery import Gallery, Shown, live_picture
from agent.dashboard.settings_dialog import SettingsDialog
from agent.dashboard.sources import Source
from agent.dashboard.view import View
from agent.errors import BadInputError
from agent.status.contract import AUTONOMIES, Setting

logger = logging.getLogger(__name__)
TICK_S = 0.25
"""s between two looks at whether something has changed."""
STYLE = Path(__file__).with_name("style.css")
THEME = """<meta name="theme-color" content="#14181e"><script>
function setTheme(theme) {  // a phone paints its own bar, above the page, in theme-color
  document.documentElement.dataset.theme = theme;
  document.querySelector("meta[name=theme-color]").content = theme === "dark" ? "#14181e" : "#ffffff";
}
setTheme(localStorage.getItem("theme") || "dark");
function nextTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(theme);
  localStorage.setItem("theme", theme);
}
</script>"""
"""`--panel` of both themes, again: a meta element takes no variable."""
KEYS = (
    ("p", "pause, or go on"),
    ("shift + b", "BLANK: beam off, instrument in SAFE"),
    ("a, v", "approve or veto the trial that waits"),
    ("e", "edit the suggestion that waits"),
    ("n", "a trial with settings of your own"),
    ("← →", "picture of an earlier or a later trial"),
    ("t", "dark or light"),
    ("?", "these keys"),
)
PANELS: tuple[tuple[str, str, Callable[[View], str]], ...] = (
    ("now", "Now", panels.now_html),
    ("scores", "Score of each trial", charts.score_chart),
    ("model", "Model: predicted score", charts.model_chart),
    ("electrons", "Electrons, and where they went", panels.electrons_html),
    ("calibration", "Column as measured", panels.calibration_html),
    ("events", "Alarms and events", panels.events_html),
    ("trials", "Trials", panels.trials_html),
)
_LEGENDS = {
    "scores": '<p class="legend"><span><i class="m exploration"></i>exploration</span> <span><i class="m final"></i>final</span> '
    '<span><i class="m expert"></i>expert</span> <span><i class="m box"></i>predicted ± sd</span> '
    '<span><i class="m holl"></i>halves of one pass</span> <span><b class="bad">✕</b> not trusted or failed</span></p>',
    "model": '<p class="legend"><span><i class="ramp cividis inline"><i></i></i> low to high</span> '
    '<span><i class="m exploration"></i>done</span> <span><i class="m pend"></i>pending</span> '
    '<span><i class="m sugg"></i>suggested</span> <span><b class="bad">✕</b> not trusted, failed or vetoed</span></p>',
}


class Page:
    """One browser's page.

    Args:
        source: of what it shows.
        gallery: draws pictures.
        commander: carries commands to the agent.
        view: the campaign that is shown.
    """

    def __init__(self, source: Source, gallery: Gallery, commander: Commander, view: View) -> None:
        self._source = source
        self._gallery = gallery
        self._commander = commander
        self._view = view
        self._drawn = (-1, -1)
        self._texts: dict[str, str] = {}
        self._boxes: dict[str, Any] = {}
        self._levels: dict[str, Any] = {}
        self._trial: int | None = None
        self._picture_of: tuple[Any, ...] = ()

    def build(self) -> None:
        """Lay everything out, inside a NiceGUI page."""
        ui.add_head_html(THEME)
        ui.add_css(STYLE.read_text(encoding="utf-8"))
        ui.keyboard(self._on_key, repeating=False)
        self._build_keys()
        self._settings = SettingsDialog(self._view, self._command)
        self._top = ui.element("header").classes("top")
        with self._top:
            self._build_top()
        self._boxes["banner"] = ui.html("", sanitize=False).classes("banner-slot")
        with ui.element("main").classes("grid"):
            self._panel("now")
            self._picture_panel("phase", "Phase")
            self._picture_panel("spectrum", "Fourier transform")
            self._panel("scores")
            self._panel("model")
            self._build_suggestion()
            for name in ("electrons", "calibration", "events", "trials"):
                self._panel(name)
        ui.timer(TICK_S, self.refresh)

    def _build_top(self) -> None:
        names = {key: _short(key) for key in sorted(self._source.views)}
        ui.select(
            names, value=self._view.key, on_change=lambda e: ui.navigate.to(f"/?campaign={_quoted(e.value)}")
        ).props("dense borderless options-dense behavior=menu aria-label=campaign").classes("chooser")
        if self._source.queue is not None:
            ui.link("queue", "/queue").classes("slot")
        self._boxes["life"] = ui.html("", sanitize=False).classes("slot")
        self._boxes["beam"] = ui.html("", sanitize=False).classes("slot")
        self._boxes["dose"] = ui.html("", sanitize=False).classes("slot grow")
        self._autonomy = (
            ui.select(list(AUTONOMIES), value="auto", on_change=self._choose_autonomy)
            .props("dense borderless options-dense behavior=menu aria-label=autonomy prefix=autonomy:")
            .classes("chooser autonomy")
        )
        self._pause = _button("PAUSE", self._toggle_pause, "pause", "nothing new is begun (p)")
        _button("STOP AFTER THIS", lambda: self._command("stop"), "stop", "end after what runs now; `resume` goes on")
        _button("BLANK", self._blank, "blank", "beam off now, instrument in SAFE (Shift+B)")
        with (
            ui.link(target="/campaigns").classes("act plain link").tooltip("all campaigns and instruments; compare two")
        ):
            ui.label("ALL")
        _button("◐", lambda: ui.run_javascript("nextTheme()"), "plain theme", "dark or light (t)")
        _button("?", self._keys.open, "plain", "keys")
        ui.label(" ".join(filter(None, (self._commander.name, self._commander.role)))).classes("role").tooltip(
            "what you may do here"
        )

    def _build_suggestion(self) -> None:
        self._suggestion = ui.element("section").classes("panel suggestion")
        with self._suggestion:
            ui.html("<h2>Suggestion and its reason</h2>", sanitize=False)
            self._boxes["suggestion"] = ui.html("", sanitize=False)
            self._decision = ui.element("div").classes("decision")
            with self._decision:
                _button("APPROVE", lambda: self._decide("approve"), "approve", "carry it out (a)")
                _button("VETO", lambda: self._decide("veto"), "veto", "choose something else (v)")
            self._decision.set_visibility(False)
            with ui.element("div").classes("decision"):
                self._edit = _button("EDIT", self._edit_held, "edit", "your settings in its place (e)")
                self._own = _button("OWN TRIAL", self._settings.own, "own", "one more, with settings of yours (n)")
            self._edit.set_visibility(False)
            self._build_levels()
            self._proposed = ui.element("div").classes("proposal")
            with self._proposed:
                self._boxes["proposal"] = ui.html("", sanitize=False)
                with ui.element("div").classes("decision"):
                    _button("APPROVE PROPOSAL", lambda: self._judge("approve"), "approve", "make it the next trial")
                    _button("VETO PROPOSAL", lambda: self._judge("veto"), "veto", "drop it")
            self._proposed.set_visibility(False)

    def _build_levels(self) -> None:
        """Autonomy over single settings."""
        with ui.element("div").classes("levels"):
            for name in get_args(Setting):
                level = ui.select(
                    [each for each in AUTONOMIES if each != "observe"],
                    value="auto",
                    on_change=lambda event, name=name: self._choose_level(name, event.value),
                )
                level.props(f"dense borderless options-dense behavior=menu prefix={name}: aria-label=autonomy-{name}")
                self._levels[name] = level.classes("chooser").tooltip(f"autonomy over a {name} that changes")

    def _build_keys(self) -> None:
        with ui.dialog() as self._keys, ui.card().classes("keys"):
            rows = "".join(f"<tr><td><kbd>{key}</kbd></td><td>{text}</td></tr>" for key, text in KEYS)
            ui.html(f"<h2>Keys</h2><table>{rows}</table>", sanitize=False)

    def _panel(self, name: str) -> None:
        title = next(title for each, title, _ in PANELS if each == name)
        with ui.element("section").classes(f"panel {name}"):
            ui.html(f"<h2>{title}</h2>", sanitize=False)
            self._boxes[name] = ui.html("", sanitize=False)
            if name in _LEGENDS:
                ui.html(_LEGENDS[name], sanitize=False)

    def _picture_panel(self, name: str, title: str) -> None:
        with ui.element("section").classes(f"panel {name}"):
            with ui.element("div").classes("head"):
                ui.html(f"<h2>{title}</h2>", sanitize=False)
                if name == "phase":
                    _button("‹", lambda: self._turn(-1), "plain small", "earlier trial (←)")
                    _button("›", lambda: self._turn(1), "plain small", "later trial (→)")
            self._boxes[name] = ui.html('<p class="nothing">no reconstruction yet</p>', sanitize=False)

    async def refresh(self) -> None:
        """Draw again what has changed."""
        view, now = self._view, time.monotonic()
        second = (view.version, int(now))
        if second == self._drawn:
            return
        changed = view.version != self._drawn[0]
        self._drawn = second
        kind, text = panels.life(view, now)
        self._set("life", f'<span class="pill life-{kind}" data-life="{kind}">{text}</span>')
        self._set("banner", panels.banner_html(view, kind, text))
        self._set("beam", panels.beam_html(view, kind == "stale"))
        if not changed:
            return
        self._set("dose", panels.dose_html(view))
        for name, _, draw in PANELS:
            self._set(name, draw(view))
        self._set("suggestion", panels.suggestion_html(view))
        self._set("proposal", panels.proposal_html(view))
        self._show_steering(view)
        await self._show_picture()

    def _show_steering(self, view: View) -> None:
        state = view.state
        if state is None:
            return
        self._top.classes(add="over" if view.finished else "", remove="" if view.finished else "over")
        self._autonomy.set_value(state.autonomy)
        self._pause.set_text("GO ON" if state.paused else "PAUSE")
        self._pause.classes(add="active" if state.paused else "", remove="" if state.paused else "active")
        asks = state.needs_approval is not None
        self._decision.set_visibility(asks)
        for name, level in self._levels.items():
            level.set_value(getattr(state, f"autonomy_{name}"))
        self._edit.set_visibility(state.held is not None)
        self._own.set_visibility(not view.finished)
        proposed = view.proposal is not None
        self._proposed.set_visibility(proposed)
        asks = asks or proposed
        self._suggestion.classes(add="asks" if asks else "", remove="" if asks else "asks")

    async def _show_picture(self) -> None:
        if self._trial is None and (live := self._view.live) is not None:
            shown = live_picture(self._view)
            if shown is not None and self._picture_of != (live.trial, live.seq):
                self._picture_of = (live.trial, live.seq)
                self._show(shown)
            return
        trials = self._gallery.trials(self._view)
        if not trials:
            return
        number = self._trial if self._trial in trials else self._latest(trials)
        message, about = self._view.trials.get(number), self._view.picture
        wanted = (number, message and message.picture_file, about and about.seq)
        if wanted == self._picture_of:
            return
        shown = await self._gallery.picture(self._view, number)
        if shown is not None:
            self._picture_of = wanted
            self._show(shown)

    def _show(self, shown: Shown) -> None:
        self._set("phase", shown.phase)
        self._set("spectrum", shown.spectrum)

    def _latest(self, trials: list[int]) -> int:
        """The campaign's own last picture; the expert's is for comparison."""
        known = self._view.trials
        own = [number for number in trials if number not in known or known[number].role != "expert"]
        return (own or trials)[-1]

    async def _turn(self, by: int) -> None:
        trials = self._gallery.trials(self._view)
        if trials:
            at = trials.index(self._trial if self._trial in trials else self._latest(trials))
            chosen = trials[min(max(at + by, 0), len(trials) - 1)]
            self._trial = None if chosen == self._latest(trials) else chosen
            await self._show_picture()

    def _set(self, name: str, text: str) -> None:
        if self._texts.get(name) != text:
            self._texts[name] = text
            self._boxes[name].set_content(text)

    async def _on_key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        match event.key.name:
            case "p":
                await self._toggle_pause()
            case "B":
                await self._blank()
            case "a":
                await self._decide("approve")
            case "v":
                await self._decide("veto")
            case "e":
                self._edit_held()
            case "n":
                self._settings.own()
            case "t":
                ui.run_javascript("nextTheme()")
            case "?":
                self._keys.open()
            case "ArrowLeft":
                await self._turn(-1)
            case "ArrowRight":
                await self._turn(1)
            case _:
                pass

    async def _toggle_pause(self) -> None:
        paused = self._view.state is not None and self._view.state.paused
        await self._command("resume" if paused else "pause")

    async def _choose_autonomy(self, event: Any) -> None:
        now = self._view.state.autonomy if self._view.state is not None else None
        if event.value != now:
            await self._command("autonomy", level=event.value)
            self._autonomy.set_value(now)  # until the agent says otherwise

    async def _choose_level(self, name: str, level: str) -> None:
        state = self._view.state
        now = getattr(state, f"autonomy_{name}") if state is not None else None
        if level != now:
            await self._command("autonomy", parameter=name, level=level)
            self._levels[name].set_value(now)  # until the agent says otherwise

    async def _decide(self, verb: str) -> None:
        waits = self._view.state.needs_approval if self._view.state is not None else None
        if waits is None:
            ui.notify("no trial waits for approval", type="info")
            return
        await self._command(verb, trial=waits)

    async def _judge(self, verb: str) -> None:
        waits = self._view.proposal
        if waits is not None:
            await self._command(verb, proposal=waits.number)

    def _edit_held(self) -> None:
        held = self._view.state.held if self._view.state is not None else None
        if held is None:
            ui.notify("no suggestion waits; pause, or set autonomy to confirm, to edit one", type="info")
            return
        self._settings.edit(held)

    async def _blank(self) -> None:
        await self._try(self._commander.blank(self._view))

    async def _command(self, verb: str, **fields: Any) -> bool:
        return await self._try(self._commander.command(self._view, verb, **fields))

    async def _try(self, work: Any) -> bool:
        try:
            ui.notify(await work, type="positive", position="top")
        except BadInputError as error:
            ui.notify(str(error), type="negative", position="top", timeout=8000)
            return False
        return True


def _button(text: str, on_click: Callable[[], Any], kind: str, about: str) -> Any:
    button = ui.button(text, on_click=on_click, color=None).props("flat no-caps dense").classes(f"act {kind}")
    return button.tooltip(about)


def _short(key: str) -> str:
    """A topic root without what all have in common."""
    return key.removeprefix("emagent/1/").removesuffix("/ptychopilot")


def _quoted(key: str) -> str:
    return quote(key, safe="")
