"""Sentences that are known without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server_jupyter.magics.phrases import EXAMPLES, Understood, understand
from mcp_server_jupyter.operations import OPERATIONS
from mcp_server_jupyter.operations.bind import parameters

OWN: dict[str, object] = {}
A = {"notebook_path": "a b.ipynb"}


@pytest.mark.parametrize(
    ("sentence", "meant"),
    [
        ("List all notebooks in the current directory", Understood("list_notebooks", {}, is_here=True)),
        ("list notebooks here.", Understood("list_notebooks", {}, is_here=True)),
        ("show me\n my notebooks", Understood("list_notebooks", {})),
        ("list notebooks in the folder 'my data'", Understood("list_notebooks", {"path": "my data"})),
        ("list files below data/raw", Understood("list_files", {"path": "data/raw"})),
        ("List all running kernels", Understood("list_kernels", {})),
        ("list variables of `a b.ipynb`", Understood("list_variables", A)),
        ("Describe a b.ipynb", Understood("get_notebook_info", A)),
        ("outline of this notebook", Understood("get_notebook_info", OWN)),
        ("read cell 3 of a b.ipynb", Understood("read_cell", {**A, "cell_index": 3})),
        ("read the notebook a b.ipynb", Understood("read_all_cells", A)),
        ("run all cells in a b.ipynb", Understood("run_all_cells", A)),
        ("create a new notebook called a b.ipynb", Understood("create_notebook", A)),
    ],
)
def test_a_sentence_means_one_operation(sentence: str, meant: Understood) -> None:
    assert understand(sentence) == meant


@pytest.mark.parametrize(
    "sentence",
    ["", "?", "plot the sales of last year", "do not run a.ipynb", "list notebooks and delete them all.ipynb x", "run"],
)
def test_what_is_not_known_means_nothing(sentence: str) -> None:
    assert understand(sentence) is None


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_understood_with_what_its_operation_takes(example: str) -> None:
    meant = understand(example.partition(" [")[0])
    assert meant is not None
    assert set(meant.arguments) <= set(parameters(OPERATIONS[meant.operation]))


def test_the_guide_names_every_phrase() -> None:
    guide = (Path(__file__).resolve().parents[4] / "docs" / "magics.md").read_text()
    assert "\n".join(EXAMPLES) in guide
