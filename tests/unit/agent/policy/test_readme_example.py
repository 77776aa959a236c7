"""The policy in the room's README is complete: it runs as a reader would type it."""

import re
from pathlib import Path

import pytest

import agent.policy
from agent.policy import make_policy
from instrument import optics

from .landscapes import Landscape, explore, problem, spent

README = Path(agent.policy.__file__).with_name("README.md")


def test_the_policy_in_the_readme_is_found_by_name_and_explores_legally_within_its_share(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "ncem_policy.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    task = problem("ncem_policy:NcemPolicy", trials=4)
    policy = make_policy(task, 0)
    suggestions = explore(policy, Landscape(0))
    assert len(suggestions) == 4
    assert spent(suggestions) <= task.config.exploration.share * task.config.electrons
    beam = task.description
    window = 1 / optics.spatial_frequency(beam.detector.angular_pixel, beam.voltage)
    for suggestion in suggestions:
        assert policy.space.why_illegal(suggestion.settings) is None
        assert suggestion.source == "ncem"
        disc = 2e-3 * beam.semiangle * suggestion.settings.defocus
        assert disc == pytest.approx(window / 3, rel=0.1)
        assert suggestion.settings.step == pytest.approx(0.15 * disc, rel=0.2)
    left = task.config.electrons - spent(suggestions)
    assert policy.space.why_illegal(policy.recommend(left).settings, final=True) is None
