from dataclasses import replace

import pytest

from recsys.tables.angles import Angle
from recsys.tables.collisions import Collisions
from recsys.tables.diagnosis import PhysicalDiagnosis, TableDiagnosis
from recsys.tables.findings import findings

ROWS = PhysicalDiagnosis("shared", 1000, 8, 4.0, (0.1,) * 6, 0)
SOUND = TableDiagnosis(
    name="shared",
    scheme="unified",
    num_bytes=32_000,
    readers=("item_id", "user_id"),
    rows_per_id=1,
    uncounted=(),
    collisions={"item_id": Collisions(100, 9, 9), "user_id": Collisions(50, 0, 50)},
    physical=(ROWS,),
    angles=(Angle("shared", "item_id", "user_id", 30.0), Angle("shared", "a", "b", None)),
)
MERGED = {"item_id": Collisions(100, 31, 40)}
NARROW = (*SOUND.angles, Angle("shared", "user_id", "age", 12.2))


def test_nothing_is_said_of_a_sound_table():
    assert findings(SOUND) == []
    assert findings(replace(SOUND, angles=None)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"collisions": MERGED},
            "item_id: 31% of its 100 most frequent ids share a row with another; "
            "more rows, or probes",
        ),
        (
            {"collisions": MERGED, "scheme": "pq", "rows_per_id": 4},
            "item_id: 31% of its 100 most frequent ids share all rows with another; more rows",
        ),
        (
            {"physical": (replace(ROWS, num_broken_rows=3),)},
            "shared: 3 of its 1,000 rows have NaN or infinite numbers; train anew, with a smaller "
            "learning rate",
        ),
        (
            {"physical": (replace(ROWS, load_factor=0.9),)},
            "shared: has more rows than ids; scheme: full takes fewer bytes, and no ids share rows",
        ),
        (
            {"angles": NARROW},
            "shared: user_id and age read rows in almost one direction, 12 degrees (1 of 3 pairs "
            "are below 30), so that shared rows disturb them; more rows, or a larger dim",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(changes, sentence):
    assert findings(replace(SOUND, **changes)) == [sentence]


@pytest.mark.parametrize(
    "changes",
    [
        {"angles": NARROW, "scheme": "full"},
        {"physical": (replace(ROWS, load_factor=0.9),), "rows_per_id": 2},
        {"physical": (replace(ROWS, load_factor=None),)},
        {"physical": (replace(ROWS, load_factor=0.9), ROWS)},
        {"physical": (replace(ROWS, load_factor=1.0),), "scheme": "full"},
    ],
)
def test_what_is_no_fault_is_not_named(changes):
    assert findings(replace(SOUND, **changes)) == []
