"""`judge` and `score_halves` under the name that scripts written before 2026-12 import; they live in `agent.scoring.halves`."""

from agent.scoring.halves import Judged, judge, score_halves

__all__ = ["Judged", "judge", "score_halves"]
