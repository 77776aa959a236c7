"""The dashboard's process: its addresses, who may enter, and how it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import ui

from agent.dashboard import overview
from agent.dashboard.commanding import Commander
from agent.dashboard.gallery import Gallery
from agent.dashboard.page import STYLE, THEME, Page
from agent.dashboard.proxy import Proxy
from agent.dashboard.queue_page import add_queue_page
from agent.dashboard.roles import COOKIE, Doorkeeper, Passwords, Visitor
from agent.dashboard.sources import FolderSource, Source
from agent.errors import BadInputError
from instrument.endpoints import is_loopback

logger = logging.getLogger(__name__)
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Address:
    """Where the page is served."""

    host: str = "127.0.0.1"
    port: int = 8080

    @property
    def url(self) -> str:
        """For a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(f"tcp://{self.host}:{self.port}")


class Entrance:
    """Tells of a request who looks: from what a proxy says, from its cookie, or because nobody is asked.

    Args:
        doorkeeper: knows who has given which password.
        proxy: that knows who somebody is; None: there is none.
    """

    def __init__(self, doorkeeper: Doorkeeper, proxy: Proxy | None = None) -> None:
        self.doorkeeper = doorkeeper
        self._proxy = proxy

    def visitor(self, request: Request) -> Visitor | None:
        """Who it is; None: a password is needed."""
        if self._proxy is not None:
            peer = request.client.host if request.client is not None else None
            if (known := self._proxy.visitor(peer, request.headers)) is not None:
                return known
        role = self.doorkeeper.role_of(request.cookies.get(COOKIE))
        return None if role is None else Visitor(role)


def serve(source: Source, passwords: Passwords, address: Address, *, browser: bool, proxy: Proxy | None = None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        source: of what it shows.
        passwords: of the roles.
        address: where; port 0: a free one.
        proxy: that knows who somebody is.
        browser: whether to open it in one.

    Raises:
        BadInputError: the port is taken.
    """
    listener = _listener(address)
    address = Address(address.host, listener.getsockname()[1])
    server = make_server(make_app(source, Entrance(Doorkeeper(passwords), proxy)))
    print(f"dashboard: {address.url}", flush=True)
    if browser:
        webbrowser.open(address.url)
    server.run(sockets=[listener])


def make_server(app: FastAPI) -> uvicorn.Server:
    """What serves it. Who is at the other end is the connection's to say, since roles hang on it, and never a header's.

    Args:
        app: the application.
    """
    config = uvicorn.Config(
        app, log_level="warning", ws_max_size=1 << 20, timeout_graceful_shutdown=2, proxy_headers=False
    )
    return uvicorn.Server(config)


def make_app(source: Source, entrance: Entrance) -> FastAPI:
    """The application.

    Args:
        source: of what it shows.
        entrance: knows who may do what.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(source.run(), name="dashboard source")
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait([work])

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    gallery = Gallery(source)
    _add_login(app, entrance.doorkeeper)

    @app.middleware("http")
    async def say_security(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        response.headers.update(SECURITY)
        return response

    @ui.page("/", title="ptychopilot", response_timeout=10)
    async def index(request: Request, campaign: str = "") -> RedirectResponse | None:
        visitor = entrance.visitor(request)
        if visitor is None:
            return RedirectResponse("/login")
        views = source.views
        first = source.first if isinstance(source, FolderSource) else None
        key = campaign if campaign in views else first or max(views, default="")
        if key not in views:
            ui.add_css(STYLE.read_text(encoding="utf-8"))
            ui.html(
                '<p class="nothing wide">no campaign is seen yet; this page looks again every 2 s</p>', sanitize=False
            )
            if source.queue is not None:
                ui.link("queue", "/queue")
            ui.timer(2.0, lambda: ui.navigate.reload() if source.views else None)
            return None
        await source.want(views[key])
        page = Page(source, gallery, Commander(source, visitor), views[key])
        page.build()
        await page.refresh()
        return None

    _add_sheets(source, gallery, entrance)
    if source.queue is not None:
        add_queue_page(entrance.visitor, source.queue)
    ui.run_with(app, title="ptychopilot", tailwind=False, show_welcome_message=False, reconnect_timeout=5.0)
    return app


def _add_sheets(source: Source, gallery: Gallery, entrance: Entrance) -> None:
    """The list of all campaigns, and two of them beside each other."""

    @ui.page("/campaigns", title="ptychopilot: campaigns", response_timeout=20)
    async def campaigns(request: Request) -> RedirectResponse | None:
        if entrance.visitor(request) is None:
            return RedirectResponse("/login")
        _frame("All campaigns")
        ui.html(overview.list_html(await asyncio.to_thread(source.rows)), sanitize=False).classes("sheet")
        return None

    @ui.page("/compare", title="ptychopilot: two campaigns", response_timeout=30)
    async def compare(request: Request) -> RedirectResponse | None:
        if entrance.visitor(request) is None:
            return RedirectResponse("/login")
        chosen = [source.views[key] for key in request.query_params.getlist("campaign") if key in source.views]
        _frame("Two campaigns")
        if len(chosen) != 2:
            text = "mark two campaigns in the list, no more and no fewer"
            ui.html(f'<p class="nothing wide">{text}</p>', sanitize=False)
            return None
        pictures = []
        for view in chosen:
            await source.want(view)
            trials = gallery.trials(view)
            last = max(trials, key=lambda n, v=view: (v.trials[n].role == "final", n)) if trials else None  # type: ignore[misc]
            pictures.append(None if last is None else await gallery.picture(view, last))
        both = overview.compare_html((chosen[0], chosen[1]), (pictures[0], pictures[1]))
        ui.html(both, sanitize=False).classes("sheet")
        return None


def _frame(title: str) -> None:
    """Theme, style and the bar of a page beside the main one."""
    ui.add_head_html(THEME)
    ui.add_css(STYLE.read_text(encoding="utf-8"))
    with ui.element("header").classes("top"):
        ui.html(f'<b class="big">{title}</b>', sanitize=False).classes("grow")
        for text, target in (("ALL", "/campaigns"), ("WATCH", "/")):
            with ui.link(target=target).classes("act plain link"):
                ui.label(text)
        ui.button("◐", on_click=lambda: ui.run_javascript("nextTheme()"), color=None).props(
            "flat no-caps dense"
        ).classes("act plain theme")


def _add_login(app: FastAPI, doorkeeper: Doorkeeper) -> None:
    @app.get("/login")
    async def show_login(wrong: bool = False) -> HTMLResponse:
        if not doorkeeper.has_passwords:
            return HTMLResponse(_NOT_HERE, status_code=403)
        said = "wrong password, or too many attempts; wait a minute" if wrong else ""
        return HTMLResponse(
            _LOGIN.replace("{style}", STYLE.read_text(encoding="utf-8")).replace("{said}", escape(said))
        )

    @app.post("/login")
    async def take_password(request: Request, password: str = Form(...)) -> RedirectResponse:
        entered = doorkeeper.enter(password)
        if entered is None:
            return RedirectResponse("/login?wrong=true", status_code=303)
        response = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(COOKIE, entered[0], httponly=True, samesite="strict", secure=secure)
        return response

    @app.post("/logout")
    async def leave(request: Request) -> RedirectResponse:
        doorkeeper.leave(request.cookies.get(COOKIE))
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie(COOKIE)
        return response


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        msg = f"{address.host}:{address.port} cannot be listened at ({error.strerror}); choose another --port (0: a free one)"
        raise BadInputError(msg) from error
    return listener


_NOT_HERE = (
    "<!doctype html><title>ptychopilot</title><p>This page is reached through its proxy, which knows who you are.</p>"
)
_LOGIN = """<!doctype html><html data-theme="dark"><head><meta charset="utf-8"><title>ptychopilot</title>
<meta name="theme-color" content="#14181e">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><form class="login" method="post" action="/login"><h1>ptychopilot</h1>
<label>password <input type="password" name="password" autofocus autocomplete="current-password"></label>
<button>enter</button><p class="bad">{said}</p></form></body></html>"""
