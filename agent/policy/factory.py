"""From the name in the campaign file to a policy."""

from __future__ import annotations

import importlib

from agent.errors import BadInputError
from agent.policy.base import Policy, Problem

_BUILT_IN = {
    "botorch": "agent.policy.botorch_policy:BotorchPolicy",
    "sobol": "agent.policy.sobol:SobolPolicy",
    "random": "agent.policy.random_search:RandomPolicy",
    "expert": "agent.policy.expert:ExpertPolicy",
}


def make_policy(problem: Problem, seed: int) -> Policy:
    """The policy that config.policy names: a built-in one, or module:attribute, called with (problem, seed).

    Raises BadInputError where the name, the module, the attribute or what it returns is not a policy, and where instrument
    and campaign leave nothing to choose from.
    """
    named = problem.config.policy
    target = _BUILT_IN.get(named, named)
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        msg = f"policy {named!r} is unknown; legal: {', '.join(_BUILT_IN)}, or module:attribute for your own"
        raise BadInputError(msg)
    try:
        make: object = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        msg = f"policy {named!r}: module {module_name!r} cannot be imported ({error}); is it on PYTHONPATH?"
        raise BadInputError(msg) from error
    except AttributeError as error:
        msg = f"policy {named!r}: module {module_name!r} has no {attribute!r}"
        raise BadInputError(msg) from error
    if not callable(make):
        msg = f"policy {named!r} is not callable; it is called with (problem, seed) and returns a policy"
        raise BadInputError(msg)
    policy = make(problem, seed)
    if not isinstance(policy, Policy):
        msg = f"policy {named!r} returned {type(policy).__name__}, which lacks name, ingest, suggest, recommend or view"
        raise BadInputError(msg)
    return policy
