"""What `Microscope` promises, tried out on an adapter: `python -m instrument check mylab:make`.

In a test of one's own: `assert not [each for each in await try_promises(microscope) if each.failure]`.
"""

from instrument.conformance.run import PROMISES, main, try_promises
from instrument.conformance.trial import Finding, Promise, small_plan

__all__ = ["PROMISES", "Finding", "Promise", "main", "small_plan", "try_promises"]
