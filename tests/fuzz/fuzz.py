"""Fuzz one target with atheris, guided by coverage: python tests/fuzz/fuzz.py TARGET [-runs=N] [-max_total_time=S].

`make fuzz` gives each target a million inputs or FUZZ_SECONDS, whichever is over first. What is found stays in `crash-…`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
with atheris.instrument_imports(include=["instrument", "agent"]):
    from targets import REFUSALS, TARGETS, seeds


def main() -> None:
    """Run until the limits of the command line."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]

    def one(data: bytes) -> None:
        with contextlib.suppress(*REFUSALS):
            target(data)

    corpus = Path(f".interop/fuzz/corpus-{name}")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(seeds(corpus)[name]):
        (corpus / f"seed-{number}").write_bytes(each)
    for file in corpus.glob("a.*"):
        file.unlink()
    limits = ["-max_len=65536", "-rss_limit_mb=2048", "-timeout=20", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
