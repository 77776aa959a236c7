"""How long a ledger with a long history takes to open, and the memory that it needs: `python tests/benchmarks/ledger_opening.py`.

Fills a ledger with EXPOSURES (default 333,333), each with the three entries of its audit trail, and opens it in a process of its
own. An argument is another number; 10⁶ exposures take ten minutes of processor time to fill.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

_OPEN = """
import resource, sys, time
from pathlib import Path
from instrument.ledger import Ledger
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, busy = time.perf_counter(), time.process_time()
ledger = Ledger(Path(sys.argv[1]))
wall, busy = time.perf_counter() - began, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
exposures, entries = (ledger._db.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in ("acquisitions", "audit"))
print(f"{exposures} exposures, {entries} entries: opened in {wall:.2f} s ({busy:.2f} s of processor time), "
      f"{(peak - before) / 1024:.0f} MB more memory, {peak / 1024:.0f} MB in all")
ledger.close()
"""


def main() -> None:
    from large_ledger import fill

    from instrument.ledger import Ledger

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 333_333
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        began = time.perf_counter()
        ledger = Ledger(Path(folder))
        fill(ledger, count, whole_trail=True)
        ledger.close()
        Ledger(Path(folder)).close()  # makes the map
        size = (Path(folder) / "ledger.sqlite").stat().st_size / 1e6
        print(f"{size:.0f} MB, filled in {time.perf_counter() - began:.0f} s", flush=True)
        for closed in (True, False):
            print("closed by a server, and untouched:" if closed else "after a kill:", end=" ", flush=True)
            if not closed:
                (Path(folder) / "ledger.closed").unlink()
            subprocess.run([sys.executable, "-c", _OPEN, folder], check=True, cwd=HERE.parents[1])


if __name__ == "__main__":
    main()
