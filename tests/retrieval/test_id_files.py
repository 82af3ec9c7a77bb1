"""No id of a file is lost, however the file begins."""

import polars as pl
import pytest

from recsys.retrieval.lists import match_ids

KNOWN = pl.Series("item_id", ["i1", "i3", "i9"])


def matched(path, known=KNOWN):
    wanted = {"column": known.name, "option": "--deny", "noun": "item", "may_be_empty": False}
    found = match_ids(path, known, **wanted)
    return [known[place] for place in found.places], found.unknown.to_list()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("i3\ni9\n", (["i3", "i9"], [])),
        ("i3\ni9\ni3\n", (["i3", "i9"], [])),
        ('"i3"\r\n"i9"\r\n', (["i3", "i9"], [])),
        ("i3\n", (["i3"], [])),
        ("item\ni9\n", (["i9"], [])),
        ("item_id\ni9\n", (["i9"], [])),
        ("i3,item_id\nx,i9\n", (["i9"], [])),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_first_line_of_a_csv_may_be_an_id(tmp_path, content, found, mark):
    (tmp_path / "ids.csv").write_text(mark + content, encoding="utf-8", newline="")
    assert matched(tmp_path / "ids.csv") == found


def test_ids_that_are_numbers(tmp_path):
    (tmp_path / "ids.csv").write_text("3\n9\n")
    assert matched(tmp_path / "ids.csv", pl.Series("item_id", [1, 3, 9])) == ([3, 9], [])


def test_the_name_of_a_column_of_parquet_is_no_id(tmp_path):
    pl.DataFrame({"i3": ["i9"]}).write_parquet(tmp_path / "ids.parquet")
    assert matched(tmp_path / "ids.parquet") == (["i9"], [])


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    (tmp_path / "ids.txt").write_text("\ufeffi3\ni9\n", encoding="utf-8")
    assert matched(tmp_path / "ids.txt") == (["i3", "i9"], [])
