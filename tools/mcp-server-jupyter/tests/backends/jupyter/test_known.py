"""What is written down of each kernel of a Jupyter."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server_jupyter.backends.jupyter.known import Known, KnownKernels
from mcp_server_jupyter.errors import Unavailable


@pytest.fixture
def kept(tmp_path: Path) -> KnownKernels:
    opened = KnownKernels(tmp_path / "kernels")
    opened.open()
    return opened


def test_what_is_written_down_last_is_known_to_the_next_server(kept: KnownKernels) -> None:
    known = Known("k", "python3", notebook="folder/a.ipynb")
    for sent in ("m-1", "", "m-" + "2" * 100, "m-3", ""):
        known.sent = sent
        kept.save(known)

        assert list(kept.all()) == [known]


def test_a_cell_is_noted_in_the_very_file_that_is_there(kept: KnownKernels, tmp_path: Path) -> None:
    known = Known("k", "python3")
    kept.save(known)
    before = (tmp_path / "kernels" / "k.json").stat()
    known.sent = "m-1"
    kept.save(known)

    after = (tmp_path / "kernels" / "k.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert list(kept.all()) == [known]


@pytest.mark.parametrize("length", [1_900, 5_000])
def test_what_has_no_room_is_written_whole(kept: KnownKernels, length: int) -> None:
    known = Known("k", "python3")
    kept.save(known)
    for notebook in ("x" * length, "short", "x" * length):
        known.notebook = notebook
        kept.save(known)

        assert list(kept.all()) == [known]


def test_what_cannot_be_written_is_said(kept: KnownKernels, tmp_path: Path) -> None:
    (tmp_path / "kernels" / "k.json").mkdir()

    with pytest.raises(Unavailable, match="cannot be kept"):
        kept.save(Known("k", "python3"))


def test_a_kernel_that_is_gone_is_forgotten(kept: KnownKernels) -> None:
    kept.save(Known("k", "python3"))
    kept.forget(Known("k", "python3"))

    assert list(kept.all()) == []
