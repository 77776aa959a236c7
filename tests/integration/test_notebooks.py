"""The notebooks run from top to bottom, and show pictures."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def displayed(notebook: nbformat.NotebookNode) -> list[str]:
    """The HTML of every output."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "results"), [("recording", 2), ("campaign", 4)])
def test_a_notebook_runs_and_shows_its_results(tmp_path: Path, name: str, results: int) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    client = NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    tables = [html for html in displayed(notebook) if "<table>" in html]
    assert len(tables) == results
    assert sum("data:image/png;base64," in html for html in tables) >= results - 1
    assert list(tmp_path.iterdir()) == []
