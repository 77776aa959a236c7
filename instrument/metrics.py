"""`/metrics` of a process, for Prometheus: where it listens, how punctual its event loop is, and the figures of a server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from instrument.errors import BadInputError
from instrument.status import Figures

METRICS_HELP = (
    "serve http://127.0.0.1:PORT/metrics for Prometheus (needs prometheus-client); ADDRESS:PORT listens elsewhere, where "
    "everybody who reaches it can read it"
)
LAG_INTERVAL = 0.25
"""s between two looks at how late the event loop is."""
LAG_WINDOW = 60.0
"""s for which a late moment is remembered: longer than Prometheus usually waits between two looks."""


class MetricsAddress(NamedTuple):
    """Where `/metrics` listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> MetricsAddress:
        """Read PORT (of this machine alone) or ADDRESS:PORT.

        Raises:
            BadInputError: it is neither.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host else "127.0.0.1"
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            msg = f"--metrics {text}: expected PORT or ADDRESS:PORT with a port of 1 … 65535, like 9464 or 0.0.0.0:9464"
            raise BadInputError(msg)
        return cls(host, int(port))


class LoopLag:
    """How late an event loop wakes up. What it is late by right now can be asked from another thread.

    Args:
        clock: monotonic time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock() + LAG_INTERVAL
        self._late: deque[tuple[float, float]] = deque(maxlen=int(LAG_WINDOW / LAG_INTERVAL))

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self._due = self._clock() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._late.append((now := self._clock(), now - self._due))

    def largest(self) -> float:
        """s, of the last LAG_WINDOW; a loop that is stuck at the moment counts as well."""
        now = self._clock()
        return max(0.0, now - self._due, *(late for at, late in tuple(self._late) if now - at <= LAG_WINDOW))


@asynccontextmanager
async def exposing_metrics(where: MetricsAddress, register: Callable[[Any], None]) -> AsyncIterator[None]:
    """Serve `/metrics`, with the lag of the running event loop, as long as the block lasts.

    Args:
        where: to listen at.
        register: puts figures into a registry of prometheus-client.

    Raises:
        BadInputError: prometheus-client is not installed, or the address cannot be listened at.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server
    except ImportError as error:
        msg = "--metrics needs prometheus-client: pip install 'ptychopilot[metrics]'"
        raise BadInputError(msg) from error
    registry, lag = CollectorRegistry(), LoopLag()
    about = f"by which the event loop was late, largest of the last {LAG_WINDOW:.0f} s"
    Gauge("ptychopilot_event_loop_lag_seconds", about, registry=registry).set_function(lag.largest)
    register(registry)
    try:
        server, thread = start_http_server(where.port, where.host, registry)
    except OSError as error:
        msg = f"--metrics {where.host}:{where.port}: cannot be listened at ({error.strerror}); choose another port"
        raise BadInputError(msg) from error
    watch = asyncio.create_task(lag.watch(), name="metrics")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        server.shutdown()
        server.server_close()
        thread.join()


class ServerCollector:
    """The figures of an instrument server, as prometheus-client asks for them.

    Args:
        figures: may be asked from any thread.
    """

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Any]:
        """One look."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        now = self._figures()
        status = now.status
        gauges = {
            "safe": (
                "1 while the instrument is in SAFE: the beam stays off until a person releases it",
                status.phase == "safe",
            ),
            "suspended": ("1 while the column is not well and nothing is exposed", bool(status.suspended)),
            "exposing": ("1 while the beam is on", not status.blanked),
            "lease_held": ("1 while an agent holds the lease", bool(status.holder)),
            "lease_left_seconds": (
                "until the lease lapses unless it is renewed; 0 where there is none",
                status.lease_left,
            ),
            "instrument_electrons_spent": ("booked for ended exposures of all campaigns", status.electrons_spent),
            "instrument_electrons_reserved": ("set aside for exposures that have not ended", status.electrons_reserved),
            "uptime_seconds": ("since the server started", status.uptime),
            "disk_free_bytes": ("of the disk that holds the ledger", now.disk_free),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"ptychopilot_{name}", about, value=float(value))
        counters = {
            "frames": ("frames that the microscope has delivered", now.frames),
            "frames_lost": ("frames that the microscope owed to exposures nobody had stopped", now.frames_lost),
            "leases_lapsed": ("leases that were not renewed in time: the beam was blanked, SAFE", now.leases_lapsed),
        }
        for name, (about, count) in counters.items():
            yield CounterMetricFamily(f"ptychopilot_{name}", about, value=count)
        ended = CounterMetricFamily("ptychopilot_exposures", "exposures that have ended", labels=["state"])
        for state, count in now.exposures.items():
            ended.add_metric([state], count)
        yield ended
        yield InfoMetricFamily("ptychopilot_instrument", "which instrument this is", value={"name": now.name})
