"""The notebook runs from end to end, on a tiny stand-in for the model that comes with the kit."""

from __future__ import annotations

from pathlib import Path

import pytest
import standin

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "experiments/tour.ipynb"


def test_the_tour_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    standin.write_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setenv("UNIFLUID_TOUR_CKPT", str(tmp_path / "last.ckpt"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(TOUR, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # which would grow the repository at every run
    resources = {"metadata": {"path": str(TOUR.parent)}}
    patient = {"timeout": 600, "startup_timeout": 300}  # a busy machine takes many times as long
    client.NotebookClient(notebook, kernel_name="python3", resources=resources, **patient).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 9
    assert not [output for output in outputs if output.get("name") == "stderr"]
