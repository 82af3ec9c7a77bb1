"""A folder appears under its name when it is complete, and not at all where that fails."""

import resource

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from features.errors import OutputError, RunConfigError
from recsys.new_folder import check_out, new_folder


def test_it_appears_at_the_end(tmp_path):
    (tmp_path / "a" / "b.partial" / "left").mkdir(parents=True)  # by one that was cut off
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "a" / "b").exists()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["a", "a/b", "a/b/file"]


def test_nothing_is_left_of_what_fails(tmp_path):
    def write():
        with new_folder(tmp_path / "b") as folder:
            (folder / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not [*tmp_path.iterdir()]


WRITERS = {
    "numpy": lambda folder: np.save(folder / "x.npy", np.zeros(10**5)),
    "polars": lambda folder: pl.DataFrame({"a": np.zeros(10**5)}).write_parquet(
        folder / "x.parquet", compression="uncompressed"
    ),
    "safetensors": lambda folder: save_file({"a": torch.zeros(10**5)}, folder / "x.safetensors"),
    "text": lambda folder: (folder / "x").write_text("x" * 10**6),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_want_of_room_is_said_whoever_writes(tmp_path, write):
    def try_it():
        with new_folder(tmp_path / "b") as folder:
            write(folder)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        with pytest.raises(OutputError, match=r"/b: cannot be written, got .*; make room"):
            try_it()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


def test_nothing_is_replaced(tmp_path):
    with pytest.raises(RunConfigError, match=r"--out: exists already, got .*; give another name"):
        check_out(tmp_path)
    check_out(tmp_path / "b")


def test_what_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    below, long = tmp_path / "file" / "b", tmp_path / (300 * "a")
    with pytest.raises(OutputError, match=r"--out: cannot be made, got .*/file/b \(Not a dir"):
        new_folder(below).__enter__()
    with pytest.raises(OutputError, match=r"--out: cannot be made, got .*a \(File name too long"):
        check_out(long)
