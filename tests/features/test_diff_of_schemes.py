"""What becomes of the rows of each scheme."""

from typing import get_args

import pytest
from differences import SCHEMES, A, fates, file, in_table

from features.edits.continuing import continue_schema
from features.edits.diff import compare
from features.fit import fit_schema
from features.table_spec import StoredTable

PLANNED = {"merged", "masked", "pruned"}
ROW_SCHEMES = {"full", "hash", "unified"}
FREE_OF_IDS = {"full", "hash", "unified", "pq", "robe", "hashednet", "dhe"}


def test_every_scheme_is_here():
    [schemes] = [get_args(StoredTable)[0]]
    assert {cls.model_fields["scheme"].annotation.__args__[0] for cls in get_args(schemes)} == set(
        SCHEMES
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_and_other_settings(scheme):
    size, other = SCHEMES[scheme]
    old = in_table(scheme, size, A)
    same = compare(old, in_table(scheme, size, A))
    assert (same.exit_code, fates(same), fates(same, "feature")) == (
        0,
        {"t": "kept"},
        {"a": "kept"},
    )
    found = compare(old, in_table(scheme, other, A))
    wanted = {"full": ("narrowed", 1), "hash": ("rehashed", 1), "unified": ("rehashed", 1)}
    fate, code = wanted.get(scheme, ("reset", 2))
    assert (fates(found)["t"], found.exit_code) == (fate, code)
    assert found.resets == (("t",) if code == 2 else ())
    assert all(change.reasons for change in found.of("table"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_from_and_to_full(scheme):
    size, _ = SCHEMES[scheme]
    full, other = in_table("full", "", A), in_table(scheme, size, A)
    to_full = {"full": "kept", "hash": "moved", "unified": "moved"}.get(scheme, "unpacked")
    assert fates(compare(other, full)) == {"t": to_full}
    from_full = {"full": "kept", "hash": "rehashed", "unified": "rehashed"}.get(scheme, "reset")
    assert fates(compare(full, other)) == {"t": from_full}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_renamed_table_and_feature(scheme):
    size, _ = SCHEMES[scheme]
    old = in_table(scheme, size, A)
    new = file(
        "name: b, renamed_from: a, kind: categorical, table: u",
        top=f"tables: {{u: {{scheme: {scheme}{size}, renamed_from: t}}}}",
    )
    found = compare(old, new)
    fate = "reset" if scheme in PLANNED else "renamed"  # a plan knows features by their names
    assert {(c.what, c.name, c.was, c.fate) for c in found.changes} == {
        ("table", "u", "t", fate),
        ("feature", "b", "a", fate),
    }
    assert found.resets == (("u",) if scheme in PLANNED else ())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_values(scheme, events):
    size, _ = SCHEMES[scheme]
    feature_set = in_table(scheme, size, A)
    old = fit_schema(feature_set, events({"a": [*"xxy"]}))
    fitted = fit_schema(feature_set, events({"a": [*"zzzxxy"]}))
    found = compare(old, continue_schema(old, feature_set, fitted=fitted))
    if scheme in ("merged", "masked", "pruned"):  # their plan speaks of the old ids
        assert found.exit_code == 0
    else:
        assert fates(found) == {"t": "grown" if scheme in FREE_OF_IDS else "reset"}
        assert compare(old, fitted).exit_code == 1 + (scheme not in ROW_SCHEMES)


@pytest.mark.parametrize(
    ("old", "new", "fate", "resets"),
    [
        ("rows: 10", "rows: 30", "grown", ()),  # rows repeat
        ("rows: 10", "rows: 15", "rehashed", ()),
        ("rows: 30", "rows: 10", "rehashed", ()),
        ("rows: 10, dim: 4", "rows: 10, dim: 8", "widened", ()),
        ("rows: 10, dim: 4", "budget: 160 B, dim: 4", "kept", ()),
        ("rows: 10, dim: 8", "budget: 320 B, dim: 4", "narrowed", ()),
    ],
)
@pytest.mark.parametrize("encoding", ["vocab", "hash"])
def test_sizes_of_hashed_tables(old, new, fate, resets, encoding):
    line = f"{A}, encoding: {encoding}"
    found = compare(in_table("hash", old, line), in_table("hash", new, line))
    if encoding == "hash" and fate == "rehashed":
        fate, resets = "reset", ("t",)
    assert (fates(found), found.resets) == ({"t": fate}, resets)
