"""The notebooks run from a clean folder, and the outputs that they are kept with are clean."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # One for all: the later ones go on with the run of the first.
    return tmp_path_factory.mktemp("notebooks")


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 5


SHRUNK = {"containers=20": "containers=8", "size=256": "size=128", "tile=128": "tile=64",
          "epochs=10": "epochs=3", "features=(16, 32, 64)": "features=(8, 16, 32)"}  # fmt: skip
"""What takes long in a notebook, and what the test puts in its place."""


def kinds_of(outputs):
    """Kinds of outputs; what a busy machine makes a library say on stderr is not counted."""
    return [output.output_type for output in outputs if output.get("name") != "stderr"]


# The kernel's own start-up warnings and the loop that it leaves behind are none of ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if path.stem[0] in "45" else ())
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path, folder):
    kept, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    for cell in notebook.cells:
        for long, short in SHRUNK.items():
            cell.source = cell.source.replace(long, short)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for before, after in zip(kept.cells, notebook.cells, strict=True):
        found = kinds_of(after.get("outputs", []))
        assert found == kinds_of(before.get("outputs", [])), before.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_without_running(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size < 800_000
    assert not re.search(r"/(home|root|tmp|work|Users|opt)/", path.read_text(encoding="utf-8"))


def test_training_and_scoring_takes_15_lines():
    code = next(c for c in nbformat.read(NOTEBOOKS[0], as_version=4).cells if c.cell_type == "code")
    assert len(code.source.splitlines()) <= 15
    assert "train_and_evaluate" in code.source
