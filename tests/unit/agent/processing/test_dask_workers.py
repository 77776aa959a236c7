"""A Dask cluster that is not there. One that is there is played by `make soak-serve`: Dask takes seconds to begin."""

from __future__ import annotations

import pytest

from agent.errors import BadInputError
from agent.processing.dask_workers import DaskWorkers

pytest.importorskip("distributed", reason="needs the extra [cluster]")


async def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.processing.dask_workers.CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(BadInputError, match="no scheduler answers there"):
        await DaskWorkers.connected("tcp://127.0.0.1:9")
