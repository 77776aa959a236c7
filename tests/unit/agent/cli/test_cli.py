"""The command line as a stranger meets it: help, templates, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from agent.cli.app import app
from agent.cli.errors import describe, run_guarded
from agent.cli.template import campaign_template
from agent.cli.terminal import Terminal
from agent.config import CampaignConfig, load_config, parse_config

CAMPAIGNS = Path(__file__).parents[4] / "deploy" / "campaigns"
NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run_guarded(app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


Command = Callable[..., tuple[int, str, str]]


def _campaign(folder: Path, **changes: Any) -> Path:
    """A sound campaign file with `changes`: dotted keys, values."""
    raw = yaml.safe_load((CAMPAIGNS / "mos2.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = raw
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def _one_line(error: str) -> str:
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("ptychopilot: ")
    return lines[0]


VERBS = ("init", "run", "resume", "reconstruct", "tune", "report", "demo", "doctor", "study", "ctl", "mcp")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(command: Command, verb: str) -> None:
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert "Usage: ptychopilot" in out
    assert len(out.split()) > 30


def children_cpu() -> float:
    """Processor time, s, of the child processes that have ended: the machine may be busy with other tests."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    probe = (
        "import sys; sys.argv = ['ptychopilot', '--help']\n"
        "from agent.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'matplotlib', 'h5py', 'scipy', 'numba', 'botorch', 'numpy', 'zmq'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    best = float("inf")
    for _ in range(3):
        began = children_cpu()
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
        best = min(best, children_cpu() - began)
        assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout
    assert best < 1.0


def test_no_progress_lets_nothing_be_redrawn(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PTYCHOPILOT_PROGRESS", raising=False)
    for verb in ("run", "resume", "reconstruct", "demo"):
        monkeypatch.setenv("PTYCHOPILOT_PROGRESS", "")
        shown = StringIO()
        with Terminal(file=shown, force_terminal=True).status("reading"):
            pass
        assert "reading" in shown.getvalue()
        arguments = {
            "run": ["absent.yaml", "-i", NOBODY],
            "resume": ["absent"],
            "reconstruct": ["absent.h5"],
            "demo": [],
        }
        target = ["--out", tmp_path / "used"] if verb == "demo" else []
        (tmp_path / "used").mkdir(exist_ok=True)
        (tmp_path / "used" / "journal.sqlite").touch()
        assert command(verb, *arguments[verb], *target, "--no-progress")[0] == 2
        shown = StringIO()
        with Terminal(file=shown, force_terminal=True).status("reading"):
            pass
        assert shown.getvalue() == ""


def test_help_lists_every_verb_of_the_manual(command: Command) -> None:
    _, out, _ = command("--help")
    for verb in (*VERBS, "simulate", "replay"):
        assert re.search(rf"^\W*{verb} ", out, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["mos2", "rotavirus"])
def test_example_campaigns_are_sound(name: str) -> None:
    config = load_config(CAMPAIGNS / f"{name}.yaml")
    assert config.electrons > 0


def test_the_demo_runs_the_example_campaign() -> None:
    packaged = Path(sys.modules["agent.cli"].__file__ or "").parent / "mos2.yaml"
    assert packaged.read_bytes() == (CAMPAIGNS / "mos2.yaml").read_bytes()


def test_init_writes_a_campaign_that_loads_and_says_where(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("init", "mine.yaml")
    assert code == 0
    assert str(tmp_path / "mine.yaml") in out
    load_config(tmp_path / "mine.yaml")

    (tmp_path / "mine.yaml").write_text("precious", encoding="utf-8")
    code, _, err = command("init", "mine.yaml")
    assert code == 2
    assert "mine.yaml exists" in _one_line(err)
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "precious"


def test_the_template_has_every_key_with_its_default_and_explains_it() -> None:
    text = campaign_template()
    config = parse_config(yaml.safe_load(text), "template")

    def keys(schema: dict[str, Any], part: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for name, field in part["properties"].items():
            reference = next((o["$ref"] for o in (field, *field.get("anyOf", ())) if "$ref" in o), None)
            found += [(name, field)] if reference is None else keys(schema, schema["$defs"][reference.split("/")[-1]])
        return found

    schema = CampaignConfig.model_json_schema()
    for name, field in keys(schema, schema):
        assert re.search(rf"^[# ]*{name}: ", text, flags=re.MULTILINE), name
        assert field.get("description"), f"{name} has no description"
    required = {name: getattr(config, name) for name in ("name", "electrons", "area", "exploration")}
    defaults = CampaignConfig.model_validate(
        {k: v if isinstance(v, str | float) else {"height": v.height, "width": v.width} for k, v in required.items()}
    )
    assert config == defaults
    assert "> 0 and < 1" in text  # exploration.share: legal values come from the type


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"electrons": -1.0}, r"electrons: .*greater than or equal to 0.*-1"),
        ({"electron": 1e6}, r"unknown key electron\b"),
        ({"search__steps": [1, 2]}, r"unknown key search\.steps"),
        ({"search__step": [0, 2]}, r"search: step: 0 is not positive"),
        ({"search__dose": [-5, 100]}, r"search: dose: -5 is not positive"),
        ({"search__defocus": [500, 100]}, r"lower limit 500 is above the upper limit 100"),
        ({"expert": [0, 500]}, r"expert\.0: .*greater than 0"),
        ({"exploration__trials": 0}, r"exploration\.trials: .*greater than or equal to 1.*0"),
        ({"score__k_max": 0.16}, r"fewer than two rings of 0\.05 1/Å fit"),
        ({"name": "no/slash"}, r"name: .*no/slash"),
        ({"mqtt__port": 1883}, r"mqtt\.host is missing"),
    ],
)
def test_mistakes_in_a_campaign_file(command: Command, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    if "mqtt__port" in changes:
        changes = {"mqtt": {"port": 1883}}
    path = _campaign(tmp_path, **changes)
    code, _, err = command("run", path, "--instrument", NOBODY)
    assert code == 2
    assert re.search(says, _one_line(err)), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed.yaml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run",), "CAMPAIGN.yaml"),
        (("run", "x.yaml"), "--instrument"),
        (("run", "absent.yaml", "-i", NOBODY), "absent.yaml: cannot be read"),
        (("demo", "--colour"), "--colour"),
        (("fly",), "fly"),
        (("resume", "nowhere"), "nowhere is not a campaign folder"),
        (("report", "nowhere"), "nowhere is not a campaign folder"),
        (("reconstruct", "absent.h5"), "absent.h5"),
        (("init", "no/such/folder/c.yaml"), "no/such/folder/c.yaml"),
    ],
)
def test_mistakes_on_the_command_line(command: Command, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert says in _one_line(err)


def test_a_file_that_is_no_yaml(command: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: [unclosed", encoding="utf-8")
    code, _, err = command("run", "broken.yaml", "-i", NOBODY)
    assert code == 2
    assert "not valid YAML" in _one_line(err)


def test_an_instrument_that_is_not_there(command: Command, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    path = _campaign(tmp_path)
    for extra in ((), ("--dry-run",)):
        code, _, err = command("run", path, "-i", endpoint, "--patience", "0.2", "--out", "campaign", *extra)
        assert code == 3
        assert endpoint in _one_line(err)
    assert not (tmp_path / "campaign").exists()


def test_an_address_that_is_none(command: Command, tmp_path: Path) -> None:
    code, _, err = command("run", _campaign(tmp_path), "-i", "localhost", "--patience", "0.2")
    assert code in (2, 3)
    assert "localhost" in _one_line(err)


def test_a_campaign_folder_that_exists(command: Command, finished_campaign: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in finished_campaign.iterdir()}
    for verb in (("run", _campaign(finished_campaign.parent), "-i", NOBODY, "--patience", "0.1"), ("demo",)):
        code, _, err = command(*verb, "--out", finished_campaign)
        assert code == 2
        assert f"`ptychopilot resume {finished_campaign}`" in _one_line(err)
    assert {p.name: p.stat().st_mtime_ns for p in finished_campaign.iterdir()} == before


def test_a_result_that_cannot_be_written_is_found_out_first(command: Command, tmp_path: Path) -> None:
    code, _, err = command("run", _campaign(tmp_path), "-i", NOBODY, "--json", "no/folder/result.json")
    assert code == 2
    assert "--json no/folder/result.json" in _one_line(err)


def test_a_number_out_of_bounds_is_refused_with_the_unit_that_is_meant(command: Command) -> None:
    code, _, err = command("reconstruct", "scan.h5", "--voltage", "80e3")
    assert code == 2
    assert "'--voltage': Input should be less than or equal to 3000 (kV" in _one_line(err)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100, b"\x89HDF\r\n\x1a\n" + bytes(300)])
def test_a_file_that_is_not_a_recording(command: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.h5").write_bytes(content)
    code, _, err = command("reconstruct", "scan.h5", "--out", "there")
    assert code == 2
    assert "scan.h5" in _one_line(err)
    assert "not a recording" in err
    assert not (tmp_path / "there").exists()


def test_a_recording_that_is_truncated_or_lacks_a_number(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.attrs["voltage"] = 80e3
        file["data"] = np.ones((8, 8, 32, 32), np.uint8)
    code, _, err = command("reconstruct", path, "--semiangle", "20", "--defocus", "100")
    assert code == 2
    assert "give --step" in _one_line(err)
    path.write_bytes(path.read_bytes()[:40_000])
    code, _, err = command("reconstruct", path)
    assert code == 2
    assert "truncated" in _one_line(err)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_report_says_where_it_is(command: Command, finished_campaign: Path) -> None:
    code, out, _ = command("report", finished_campaign)
    assert code == 0
    path = Path(out.removeprefix("report: ").strip())
    assert path == finished_campaign / "report.html"
    assert path.exists()
    code, out, _ = command("report", finished_campaign, "--out", "elsewhere", "--json", "result.json")
    assert code == 0
    assert (Path("elsewhere") / "report.html").exists()
    assert json.loads(Path("result.json").read_text(encoding="utf-8"))["report"].endswith("elsewhere/report.html")
    assert "result.json" in out


def test_resume_of_a_finished_campaign_shows_its_result(command: Command, finished_campaign: Path) -> None:
    code, out, _ = command("resume", finished_campaign, "--json", "result.json", "--patience", "0.1")
    assert code == 0
    assert "4.05 ± 0.06" in out
    assert "3.71 ± 0.06" in out
    assert str(finished_campaign / "report.html") in out
    result = json.loads(Path("result.json").read_text(encoding="utf-8"))
    assert result["recommended"] | {"step_size": 1.1, "defocus": 310.0, "dose": 5600.0} == result["recommended"]
    assert (result["score"], result["score_sd"]) == (4.05, 0.06)
    assert result["expert"]["score"] == 3.71
    assert result["electrons_budget"] == 1.2e7
    assert [t["number"] for t in result["trials"]] == [1, 2, 3, 4, 5, 6]
    assert result["trials"][1]["state"] == "failed"
    assert {"step_size", "defocus", "dose", "electrons", "score", "score_sd"} <= result["trials"][0].keys()
    assert result["electrons_spent"] == pytest.approx(sum(t["electrons"] for t in result["trials"][:5]))


@pytest.mark.parametrize("verb", ["resume", "report"])
def test_a_journal_that_is_damaged(command: Command, finished_campaign: Path, verb: str) -> None:
    (finished_campaign / "journal.sqlite").write_bytes(b"this was a journal once" * 400)
    code, _, err = command(verb, finished_campaign)
    assert code == 2
    assert "journal.sqlite" in _one_line(err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to imitate a full disk")
def test_a_full_disk_is_no_internal_error() -> None:
    def write() -> None:
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("x")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    code, message = describe(caught.value)
    assert code == 4
    assert "full" in message
    assert "resume" in message


def test_an_internal_error_points_to_debug() -> None:
    code, message = describe(ZeroDivisionError("division by zero"))
    assert code == 1
    assert "ZeroDivisionError" in message
    assert "--debug" in message


def test_of_several_errors_the_one_that_can_be_helped_is_told() -> None:
    group = ExceptionGroup(
        "tasks", [ZeroDivisionError("x"), ExceptionGroup("more", [OSError(28, "No space", "/data")])]
    )
    assert describe(group) == (4, "the disk of /data is full; free some space and resume")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1"}
    for extra, traceback in ((), False), (("--debug",), True):
        done = subprocess.run(
            [sys.executable, "-c", "from agent.cli import main; main()", "init", str(tmp_path), *extra],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert ("Traceback" in done.stderr) == traceback
        assert done.returncode != 0
        assert traceback or done.returncode == 2


def test_output_into_a_pipe_that_closes() -> None:
    pipe = f"{sys.executable} -c 'from agent.cli import main; main()' --help | head -1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_on_a_control_pc_without_the_agent_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agent.cli import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "ptychopilot[agent]" in capsys.readouterr().err
