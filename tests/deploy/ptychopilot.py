"""`ptychopilot`, whose new campaigns are processed as in the small world: a real score of real files, in milliseconds."""

from __future__ import annotations

from typing import Any

from agent.campaign import run
from agent.cli import main

if __name__ == "__main__":
    defaults: Any = run.run_campaign.__kwdefaults__
    defaults["processing"] = "small_world:process"
    main()
