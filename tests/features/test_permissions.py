"""What one account has made another one may read, or is told what it takes."""

import os

import pytest

from features.errors import DataError
from features.permissions import give_usual_mode, refused_by_name


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_any_other_new_one(tmp_path, mask):
    file = tmp_path / "tables"
    before = os.umask(mask)
    try:
        (tmp_path / "other").write_bytes(b"")
        file.write_bytes(b"")
        file.chmod(0o600)
        give_usual_mode(file)
        assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_where_files_have_no_modes_they_are_kept(tmp_path, monkeypatch):
    def refusing(path, mode):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("pathlib.Path.chmod", refusing)
    (tmp_path / "tables").write_bytes(b"x")
    give_usual_mode(tmp_path / "tables")
    assert (tmp_path / "tables").read_bytes() == b"x"


def test_a_file_that_may_not_be_read_is_named():
    with (
        pytest.raises(DataError, match=r"a/b: cannot be read, got No; .*`chmod -R a\+rX a`"),
        refused_by_name(DataError),
    ):
        raise PermissionError(13, "No", "a/b")
    with pytest.raises(FileNotFoundError), refused_by_name(DataError):
        raise FileNotFoundError(2, "No", "a/b")
