"""Which settings to try next: `suggest` and `ingest`, and the policies behind them.

Importing this does not import torch; `make_policy` does where the campaign asks for BoTorch.
"""

from agent.errors import BadInputError
from agent.plugins import load_attribute
from agent.policy.base import Observation, Policy, Problem
from agent.policy.baselines import Baseline, ExpertPolicy, RandomPolicy, SobolPolicy
from agent.policy.book import ObservationBook
from agent.policy.space import SearchSpace

__all__ = [
    "Baseline",
    "ExpertPolicy",
    "Observation",
    "ObservationBook",
    "Policy",
    "Problem",
    "RandomPolicy",
    "SearchSpace",
    "SobolPolicy",
    "make_policy",
]

_BUILT_IN = {
    "botorch": "agent.policy.botorch_policy:BotorchPolicy",
    "sobol": "agent.policy.baselines:SobolPolicy",
    "random": "agent.policy.baselines:RandomPolicy",
    "expert": "agent.policy.baselines:ExpertPolicy",
    "grid": "agent.policy.formulas:GridPolicy",
    "ncem": "agent.policy.formulas:NcemPolicy",
    "phaser": "agent.policy.formulas:PhaserPolicy",
    "seed": "agent.policy.formulas:SeedPolicy",
    "seed-4": "agent.policy.formulas:SeedFewStartsPolicy",
}


def make_policy(problem: Problem, seed: int) -> Policy:
    """The policy that config.policy names: a built-in one, or module:attribute, called with (problem, seed).

    Args:
        problem: the campaign's.
        seed: of everything random in the policy.

    Returns:
        A policy that has not been told anything yet.

    Raises:
        BadInputError: where the name, the module, the attribute or what it returns is not a policy, and where instrument and
            campaign leave nothing to choose from.
    """
    named = problem.config.policy
    is_generator = named.startswith("gest:")
    target = "agent.policy.generators:GeneratorPolicy" if is_generator else _BUILT_IN.get(named, named)
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        msg = f"policy {named!r} is unknown; legal: {', '.join(_BUILT_IN)}, or module:attribute for your own"
        raise BadInputError(msg)
    try:
        make: object = load_attribute(target)
    except BadInputError as error:
        cause = error.__cause__
        if isinstance(cause, ImportError):
            msg = f"policy {named!r}: module {module_name!r} cannot be imported ({cause}); is it on PYTHONPATH?"
        elif isinstance(cause, AttributeError):
            msg = f"policy {named!r}: module {module_name!r} has no {attribute!r}"
        else:
            raise
        raise BadInputError(msg) from cause
    if not callable(make):
        msg = f"policy {named!r} is not callable; it is called with (problem, seed) and returns a policy"
        raise BadInputError(msg)
    policy = make(problem, seed)
    if not isinstance(policy, Policy):
        msg = f"policy {named!r} returned {type(policy).__name__}, which lacks name, ingest, suggest, recommend or view"
        raise BadInputError(msg)
    return policy
