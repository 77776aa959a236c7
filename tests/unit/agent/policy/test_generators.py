"""gest-api both ways: our policies under other programs, other programs' generators in our campaigns."""

import math

import pytest

gest = pytest.importorskip("gest_api.generator")

from agent.policy import make_policy  # noqa: E402
from agent.policy.baselines import SobolPolicy  # noqa: E402
from agent.policy.generators import PolicyGenerator, vocs_of  # noqa: E402

from .landscapes import Landscape, explore, problem, spent  # noqa: E402


def test_a_policy_of_ours_is_driven_as_a_generator():
    from agent.policy.botorch_policy import BotorchPolicy

    task = problem(trials=6)
    generator = PolicyGenerator(vocs_of(task), problem=task, policy=BotorchPolicy, seed=1)
    assert isinstance(generator, gest.Generator)
    landscape = Landscape(1)
    for _ in range(2):
        points = generator.suggest(2)
        assert len({point["_id"] for point in points}) == 2
        for point in points:
            settings = generator._settings[point["_id"]]
            point["score"] = landscape.truth(settings)
            point["score_sd"] = 0.05
        generator.ingest(points)
    with pytest.raises(ValueError, match="_id 99 was never suggested"):
        generator.ingest([points[0] | {"_id": 99}])


def test_points_from_elsewhere_and_scores_that_are_no_number_are_taken():
    task = problem(trials=4)
    generator = PolicyGenerator(None, problem=task, policy=SobolPolicy)
    point = {"step": 1.0, "defocus": 200.0, "dose": 500.0}
    generator.ingest([point | {"score": 1.0}, point | {"score": math.nan}])
    assert generator.suggest()[0]["_id"] == 3


def test_other_variables_are_refused():
    task = problem()
    vocs = vocs_of(task)
    del vocs.variables["step"]
    with pytest.raises(ValueError, match="legal: step, defocus, dose"):
        PolicyGenerator(vocs, problem=task, policy=SobolPolicy)


FOREIGN = """
from gest_api.generator import Generator

class Middle(Generator):
    def __init__(self, vocs):
        self.vocs, self.told = vocs, []
    def _validate_vocs(self, vocs): pass
    def suggest(self, num_points):
        if len(self.told) == 2:
            raise RuntimeError("no idea")
        return [{name: sum(v.domain) / 2 for name, v in self.vocs.variables.items()}]
    def ingest(self, results):
        self.told += results
"""


def test_anyones_generator_drives_a_campaign_and_may_fail(tmp_path, monkeypatch):
    (tmp_path / "foreign_generator.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    task = problem("gest:foreign_generator:Middle", trials=5)
    policy = make_policy(task, 0)
    suggestions = explore(policy, Landscape(0))
    assert len(suggestions) == 5
    assert spent(suggestions) <= task.config.exploration.share * task.config.electrons
    assert "suggested by Middle" in suggestions[0].reason
    assert any("the generator failed (no idea)" in s.reason for s in suggestions)
    assert all(policy.space.why_illegal(s.settings) is None for s in suggestions)
