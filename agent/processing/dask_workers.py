"""A Dask cluster that computes for a pool (`agent.processing.pool`). Its workers see the same files under the same names.

A worker that is lost costs the cluster another attempt; one whose jobs die again and again costs the trial. TLS, and how often
an attempt is repeated, are Dask's own configuration.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from agent.errors import AgentError, BadInputError, StoppedError
from agent.plugins import load_attribute
from agent.processing.child import ProcessingError, take_message
from agent.processing.process import ProcessingJob, ProcessingResult, Progress

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_TIMEOUT_S = 20


class DaskWorkers:
    """Jobs as tasks of a cluster; made by `connected`. Of progress a cluster tells nothing.

    Args:
        client: of the cluster, asynchronous.
    """

    def __init__(self, client: Client) -> None:
        self.count: int | None = None
        self.busy = 0
        self.waiting = 0
        self._client = client
        self._futures: dict[Path, Future] = {}

    @classmethod
    async def connected(cls, address: str, security: Any = None) -> Self:
        """A cluster by the address of its scheduler.

        Args:
            address: tcp:// or tls://HOST:PORT.
            security: certificates, see `distributed.Security`; None: those of Dask's configuration.

        Raises:
            BadInputError: Dask is not installed, or no scheduler is there.
        """
        try:
            from distributed import Client
        except ImportError as error:
            msg = "Dask is not installed; pip install 'ptychopilot[cluster]' adds it"
            raise BadInputError(msg) from error
        try:
            return cls(await Client(address, security=security, asynchronous=True, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError) as error:
            msg = f"--dask {address}: no scheduler answers there ({error}); is it running?"
            raise BadInputError(msg) from error

    async def run(
        self, processing: str, job: ProcessingJob, on_progress: Progress | None = None, timeout_s: float | None = None
    ) -> ProcessingResult:
        """See agent.processing.pool.Workers."""
        future = self._client.submit(process_remotely, processing, job.model_dump_json(), pure=False)
        self._futures[job.output] = future
        self.busy += 1
        try:
            async with asyncio.timeout(timeout_s):
                line = await future
        except TimeoutError as error:
            msg = f"the reconstruction took longer than {timeout_s:g} s and was given up"
            raise ProcessingError(msg) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:  # of many kinds: Dask's own, and what comes with its transport
            raise ProcessingError(f"the cluster lost the reconstruction: {error}") from error
        finally:
            self.busy -= 1
            del self._futures[job.output]
            if not future.done():
                await future.cancel()
        result = take_message(line.encode(), on_progress)
        assert result is not None
        return result

    async def acknowledge(self, job: ProcessingJob) -> None:
        """See agent.processing.pool.Workers. The worker's process answers, not the reconstruction that runs in it."""
        future = self._futures.get(job.output)
        if future is None:
            return
        processing = await self._client.processing()
        if at := [worker for worker, keys in processing.items() if future.key in keys]:
            await self._client.run(is_alive, workers=at)

    async def close(self) -> None:
        """Leave the cluster, which goes on."""
        await self._client.close()


def is_alive() -> bool:
    """On the cluster: whoever can say so is."""
    return True


def process_remotely(processing: str, job: str) -> str:
    """On the cluster: the answer of `agent.processing.child` to a job.

    Args:
        processing: `module:function`.
        job: ProcessingJob as JSON.
    """

    def on_progress(phase: str, fraction: float) -> None:
        """Nobody is told."""

    try:
        result = load_attribute(processing)(ProcessingJob.model_validate_json(job), on_progress)
    except StoppedError as error:
        return json.dumps({"stopped": str(error)})
    except (AgentError, BadInputError) as error:
        return json.dumps({"error": str(error)})
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})
    return json.dumps({"result": result.model_dump(mode="json")})
