"""A campaign file as people write it: in their editor's encoding, with YAML's traps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.campaign.connection import load_keys
from agent.cli.template import campaign_template
from agent.config import CampaignConfig, Mqtt, load_config
from agent.encoding import os_path
from agent.errors import BadInputError
from agent.status.mqtt import MqttPublisher
from agent.storage.atomic import atomic_write
from agent.storage.facts import InstrumentLink
from instrument import generate_keys

SOUND = """\
name: mine
electrons: {electrons}
area: {{height: 24, width: 24}}
exploration:
  trials: 3
  height: 16
  width: 16
{more}"""


def _write(folder: Path, electrons: str = "2e6", more: str = "") -> Path:
    path = folder / "campaign.yaml"
    path.write_text(SOUND.format(electrons=electrons, more=more), encoding="utf-8")
    return path


def _refused(path: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        load_config(path)
    return str(caught.value)


def _laughs(name: str, levels: int) -> str:
    """A list of aliases of lists of aliases: nine to the power of `levels` words."""
    lists = [f"&{name}{n} [" + ", ".join([f"*{name}{n - 1}" if n else f"*{name}"] * 9) + "]" for n in range(levels)]
    return "[" + ", ".join(lists) + "]"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_saved_in_any_encoding_of_an_editor(tmp_path: Path, encoding: str, line_end: str) -> None:
    text = campaign_template().replace('sample: ""', 'sample: "MoS2 für Å"')
    path = tmp_path / "campaign.yaml"
    path.write_bytes(text.replace("\n", line_end).encode(encoding, "replace"))
    assert load_config(path).metadata.sample == "MoS2 für Å"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
async def test_a_password_file_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "password").write_bytes("schlüssel\r\n".encode(encoding))
    publisher = MqttPublisher(Mqtt(host="broker", password_file=tmp_path / "password"))
    assert publisher._password == "schlüssel"


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "true",
        "on",
        "012",
        "0o14",
        "0x1F",
        "1:20",
        "1,5e6",
        "2 000 000",
        "2e6 e",
        ".inf",
        ".nan",
        "2026-11-30",
        "1e999",
    ],
)
def test_electrons_that_are_no_plain_number_are_refused_with_the_line(tmp_path: Path, value: str) -> None:
    said = _refused(_write(tmp_path, value))
    assert "line 2: electrons" in said


@pytest.mark.parametrize(
    ("value", "electrons"), [("2e6", 2e6), ("2.5e+6", 2.5e6), ("2000000", 2e6), ("2_000_000", 2e6), ("'3e6'", 3e6)]
)
def test_a_number_however_it_is_written(tmp_path: Path, value: str, electrons: float) -> None:
    assert load_config(_write(tmp_path, value)).electrons == electrons


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("electrons: 5e9", "line 8: the key electrons stands twice, in line 2 already"),
        (
            "search:\n  dose: [1, 2]\n  step: [1, 2]\n  dose: [3, 4]",
            "line 11: the key search.dose stands twice, in line 9",
        ),
        ("search:\n  step: [012, 20]", "line 9: search.step.0: '012'"),
        ("seed: yes", "line 8: seed"),
        ("time_limit: 1:30:00", "line 8: time_limit: '1:30:00'"),
        ("expert: [1.2, off]", "line 8: expert.1: 'off'"),
        ("mqtt:\n  host: broker:1883", "line 9: mqtt.host: only a name or an address"),
        ("mqtt:\n  host: mqtt://broker", "line 9: mqtt.host"),
        ("mqtt:\n  host: broker\n  port: 22:22", "line 10: mqtt.port"),
        ("metadata:\n  proposal: 2026", "line 9: metadata.proposal: text is expected here; put 2026 in quotes"),
        ("search:\n  steps: [1, 2]", "line 9: unknown key search.steps"),
        ("search:\n\tstep: [1, 2]", "not valid YAML in line 9"),
        ("seed: !!python/object:os.system 1", "line 8"),
        ("metadata: &a {sample: *a}", "line 8: a value holds itself"),
        ("metadata:\n  sample: &a [x, x, x, x, x, x, x, x, x]\n  operator: " + _laughs("a", 8), "aliases (*name)"),
        (
            "search: &s0 {step: [1, 2]}\n"
            + "".join(f"m{n}: &s{n} {{<<: [*s{n - 1}, *s{n - 1}]}}\n" for n in range(1, 22)),
            "aliases",
        ),
        ("seed: true", "line 8: seed: True is not a number"),
        ("keys: true", "line 8: keys: a path is expected here"),
        ("geometry:\n  rotation: true", "line 9: geometry.rotation: True is not a number"),
        ('metadata:\n  sample: "gold\\0foil"', "line 9: 'gold\\x00foil' holds a control character"),
        ('metadata:\n  sample: "\\e[2Jgold"', "line 9: '\\x1b[2Jgold' holds a control character"),
        ('metadata:\n  sample: "\\U00110000"', "not valid YAML"),
        ("metadata:\n  sample: !!bool x", "line 9: 'x' cannot be read as !!bool"),
        ("metadata: " + "{a: " * 3000, "nested too deeply"),
        ("metadata: {sample: " + "x" * (1 << 20) + "}", "is it the right file?"),
        ("time_limit: " + "9" * 5000, "line 8: '999999"),
    ],
)
def test_yaml_that_means_something_else_is_refused_with_the_line(tmp_path: Path, more: str, says: str) -> None:
    assert says in _refused(_write(tmp_path, more=more))


def test_words_stay_words(tmp_path: Path) -> None:
    more = "metadata: {proposal: 0123, sample: 2026-11-30, operator: on}\nreconstruction: {background: no}"
    config = load_config(_write(tmp_path, more=more))
    assert (config.metadata.proposal, config.metadata.sample, config.metadata.operator) == ("0123", "2026-11-30", "on")
    assert config.reconstruction.background is False


def test_the_home_directory_is_put_for_the_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(_write(tmp_path, more="keys: ~/keys\nmqtt: {host: '::1', password_file: ~/password}"))
    assert config.mqtt is not None
    assert (config.keys, config.mqtt.password_file) == (tmp_path / "keys", tmp_path / "password")


def test_the_default_folder_of_keys_is_for_other_machines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_keys(None, "tcp://control-pc:5555") is None
    folder = tmp_path / "ptychopilot" / "keys"
    generate_keys(folder, "agent")
    generate_keys(tmp_path / "scope", "scope")
    (folder / "scope.key").write_bytes((tmp_path / "scope" / "scope.key").read_bytes())
    assert load_keys(None, "tcp://control-pc:5555") is not None
    assert load_keys(None, "tcp://127.0.0.1:5555") is None
    with pytest.raises(BadInputError, match=r"keys: .*no folder there"):
        load_keys(tmp_path / "nowhere", "tcp://127.0.0.1:5555")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_name_that_is_no_text_survives_the_journal_and_every_text_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xe4rz \xc3\xa4")
    link = InstrumentLink(endpoint="tcp://127.0.0.1:1", command=("serve", name), keys=Path("/tmp") / name)
    assert InstrumentLink.model_validate_json(link.model_dump_json()) == link
    atomic_write(tmp_path / name, name)
    assert (tmp_path / name).read_text(encoding="utf-8") == "m\\udce4rz ä"
    assert os_path(str(link.keys)) == link.keys


def test_keys_are_a_part_of_the_configuration_that_is_kept(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, more="keys: /etc/keys"))
    assert CampaignConfig.model_validate_json(config.model_dump_json()) == config
