"""Which settings to try next: `suggest` and `ingest`, and the policies behind them.

Importing this does not import torch; `make_policy` does where the campaign asks for BoTorch.
"""

from agent.policy.base import Observation, Policy, Problem
from agent.policy.expert import ExpertPolicy
from agent.policy.factory import make_policy
from agent.policy.random_search import RandomPolicy
from agent.policy.sobol import SobolPolicy
from agent.policy.space import SearchSpace

__all__ = [
    "ExpertPolicy",
    "Observation",
    "Policy",
    "Problem",
    "RandomPolicy",
    "SearchSpace",
    "SobolPolicy",
    "make_policy",
]
