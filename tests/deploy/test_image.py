"""The image of deploy/container, built with podman on a base of this machine, and `doctor` in it: `make test-image`.

PTYCHOPILOT_BASE names another base image; PTYCHOPILOT_BUILD has further options of `podman build`, such as `--volume` where pip
needs this machine's certificates or packages.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE, BASE = "localhost/ptychopilot-tested", "localhost/ptychopilot-base"
DEBIAN = ("bookworm", "http://deb.debian.org/debian")

if not os.environ.get("PTYCHOPILOT_IMAGE"):
    pytest.skip("takes a quarter of an hour and 5 GB: make test-image", allow_module_level=True)
if shutil.which("podman") is None:
    pytest.skip("needs podman (Debian package)", allow_module_level=True)


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command, which asks for no more than this process may have: it may run in a container itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    runtime = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    (tmp_path / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={min(soft, 1024)}:{min(hard, 4096)}", "nproc=4096:4096"]\n{runtime}'
    )
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    return ["podman"]


def base_image(podman: list[str], folder: Path) -> list[str]:
    """Options that say what the image is built on: a Debian made here, where that can be done."""
    if name := os.environ.get("PTYCHOPILOT_BASE"):
        return [f"--build-arg=BASE={name}"]
    if shutil.which("debootstrap") is None:
        return []
    suite, mirror = DEBIAN
    wanted = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", wanted, suite, folder / "base", mirror], check=True)
    with subprocess.Popen(["tar", "-C", folder / "base", "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([*podman, "import", "-", BASE], stdin=tar.stdout, check=True)
    return [f"--build-arg=BASE={BASE}"]


@pytest.mark.timeout(3600)
def test_the_image_is_built_and_doctor_finds_all_that_it_needs(podman: list[str], tmp_path: Path) -> None:
    further = [*base_image(podman, tmp_path), *shlex.split(os.environ.get("PTYCHOPILOT_BUILD", ""))]
    file = ROOT / "deploy" / "container" / "Containerfile"
    subprocess.run([*podman, "build", "--network=host", "-f", file, "-t", IMAGE, *further, ROOT], check=True)
    # As compose.yaml runs it: nobody in particular, nothing to be written but /tmp, and here no network either.
    confined = ["--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--user=1000"]
    done = subprocess.run([*podman, "run", *confined, IMAGE], capture_output=True, text=True, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing" not in done.stdout.replace("missing; only a language model", "")
