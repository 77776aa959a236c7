"""From the name in the campaign file to a policy: the built-in ones, the user's own, and what is refused."""

import subprocess
import sys

import pytest

from agent.errors import BadInputError
from agent.policy import ExpertPolicy, Policy, RandomPolicy, SobolPolicy, make_policy

from .landscapes import problem, scored_policy


def test_budgets_that_are_too_small_are_refused_with_the_numbers():
    with pytest.raises(
        BadInputError, match=r"10 trials at the smallest legal dose \(50 e/Å² over 900 Å²\) need 4.5e\+05"
    ):
        make_policy(problem("sobol", electrons=1e5), 0)
    with pytest.raises(BadInputError, match=r"9e\+04 electrons over the area of 3600 Å² are 25 e/Å²"):
        make_policy(problem("random", electrons=9e5, share=0.9), 0)
    policy = scored_policy(problem())
    with pytest.raises(BadInputError, match="smallest legal dose is 50"):
        policy.recommend(1000.0)


OWN_POLICY = """
from agent.policy import SobolPolicy

class Mine(SobolPolicy):
    name = "mine"

def broken(problem, seed):
    return 42

number = 3
"""


def test_a_users_own_policy_is_found_by_module_and_attribute(tmp_path, monkeypatch):
    (tmp_path / "own_policy_for_test.py").write_text(OWN_POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    policy = make_policy(problem("own_policy_for_test:Mine"), 0)
    assert isinstance(policy, Policy)
    assert policy.suggest()[0].source == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "botorhc",
            "unknown; legal: botorch, sobol, random, expert, grid, ncem, phaser, seed, seed-4, or module:attribute",
        ),
        ("no_such_module:x", "module 'no_such_module' cannot be imported"),
        ("own_policy_for_test:absent", "has no 'absent'"),
        ("own_policy_for_test:number", "not callable"),
        ("own_policy_for_test:broken", "returned int, which lacks"),
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path, monkeypatch, name, message):
    (tmp_path / "own_policy_for_test.py").write_text(OWN_POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInputError, match=message):
        make_policy(problem(name), 0)


def test_importing_the_policies_does_not_import_torch():
    code = "import sys, agent.policy; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_built_in_policy_is_one():
    for kind in (ExpertPolicy, RandomPolicy, SobolPolicy):
        assert isinstance(kind(problem(), 0), Policy)
