"""A folder appears under its name when it is complete, and not at all where that fails."""

import pytest

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
