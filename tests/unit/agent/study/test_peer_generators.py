"""Other people's optimisers in studies of policies: Ax, Optuna, scikit-optimize, where they are installed."""

import pytest
from examples import description

pytest.importorskip("gest_api.generator")

from agent.cli.comparison import run_comparison
from agent.errors import BadInputError
from agent.study import peer_generators
from agent.study.comparison import PEERS, Design, compare
from agent.study.plans import Wanted

from .test_comparison import COLUMN, Answers

BROKEN = """
from gest_api.generator import Generator

class Broken(Generator):
    def __init__(self, vocs):
        self.vocs = vocs
    def _validate_vocs(self, vocs): pass
    def suggest(self, num_points):
        raise RuntimeError("no idea")
    def ingest(self, results): pass
"""


def compared(policy, trials):
    design = Design("policies", (policy,), (1e3,), (trials,), (0,), (3, 4))
    pool = Answers()
    (record,) = compare(pool, COLUMN, description(), design)
    return record, [settings for settings, _ in pool.asked if settings.dose < 1e3]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_explores_a_column_by_its_own_choice_with_the_same_electrons_each_time(name):
    if why := peer_generators.missing(name):
        pytest.skip(why)
    record, tried = compared(name, 6)
    assert record.error is None
    assert record.trials == len(tried) == 6
    assert len({(settings.step, settings.defocus) for settings in tried}) > 1
    assert len({settings.dose for settings in tried}) == 1


def test_a_generator_that_fails_is_not_replaced_by_random_search(tmp_path, monkeypatch):
    (tmp_path / "broken_generator.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    record, tried = compared("gest:broken_generator:Broken", 2)
    assert record.error == "gest:broken_generator:Broken failed: no idea"
    assert not tried


def test_peers_that_are_not_installed_are_left_out_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(peer_generators, "find_spec", lambda module: None)
    with pytest.raises(BadInputError, match="--policies ax,optuna-4: none of them is installed"):
        run_comparison("policies", None, None, Wanted(quick=True), 1, None, None, "ax,optuna-4")
    told = " ".join(capsys.readouterr().out.split())
    assert "ax is not installed and was left out; `pip install ax-platform`" in told
    assert "optuna-4 is not installed and was left out; `pip install optuna`" in told
