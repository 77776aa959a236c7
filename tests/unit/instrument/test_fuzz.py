"""Whatever bytes arrive or lie in a file: a value, or one sentence. `make fuzz` tries a million of each."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))
from targets import REFUSALS, TARGETS, seeds

INPUTS = 60


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, some cut out, some doubled; or only rubbish."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    spoilt = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(spoilt) + 1)
        match rng.randrange(4):
            case 0:
                spoilt[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del spoilt[at : at + rng.choice([1, 4, 1000])]
            case 2:
                spoilt[at:at] = spoilt[at : at + rng.choice([1, 8])] * rng.choice([1, 50])
            case _:
                spoilt[at : at + 4] = rng.choice([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"-1e9"])
    return bytes(spoilt)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    return seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_input_is_read_or_refused_in_a_sentence(name: str, sound: dict[str, list[bytes]]):
    rng = random.Random(name)
    for number in range(INPUTS):
        data = spoilt(rng.choice(sound[name]), rng)
        try:
            TARGETS[name](data)
        except REFUSALS as error:
            message = str(error)
        except Exception as error:
            pytest.fail(f"input {number}: {type(error).__name__}: {error}")
        else:
            continue
        assert message.strip(), number
