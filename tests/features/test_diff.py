"""What becomes of features, sequences and shared tables."""

import pytest
from differences import SCHEMES, A, fates, file, in_table
from hypothesis import given, settings
from hypothesis import strategies as st

from features.edits.changes import ALL_FATES
from features.edits.diff import compare
from features.edits.renames import same_names
from features.errors import FeatureConfigError
from features.fit import fit_schema


@pytest.mark.parametrize(
    "line",
    [
        "name: a, kind: categorical, column: x",
        "name: a, kind: categorical, expr: upper(a)",
        "name: a, kind: categorical, split: '|'",
        "name: a, kind: categorical, encoding: {kind: hash, size: 9}",
        "name: a, kind: categorical, encoding: {kind: identity, size: 9}",
        "name: a, kind: bucketized, quantiles: 3",
        "name: a, kind: dense",
    ],
)
def test_ids_that_mean_other_things(line):
    own = compare(file("name: a, kind: categorical"), file(line))
    assert (own.resets, own.exit_code) == (("a",), 2)
    if "dense" in line:
        return
    b = "name: b, kind: categorical, table: t"
    shared = compare(
        in_table("unified", "rows: 9", A, b), in_table("unified", "rows: 9", b, line + ", table: t")
    )
    assert shared.resets == ("a",)
    assert fates(shared) == {"t": "changed"}
    alone = compare(
        in_table("unified", "rows: 9", A), in_table("unified", "rows: 9", line + ", table: t")
    )
    assert alone.resets == ("t",)


C_AND_B = (", column: c", "")


@pytest.mark.parametrize(
    ("before", "after", "fate"),
    [
        ("", "", "renamed"),  # the column is renamed with it
        ("", ", column: b", "renamed"),
        ("", ", column: a", "renamed"),
        ("", ", column: c", "reset"),
        (", column: c", ", column: c", "renamed"),
        (", column: c", "", "renamed"),
        (", column: c", ", column: a", "reset"),
    ],
)
def test_a_column_may_be_renamed_with_its_feature(before, after, fate):
    old = file(f"name: a, kind: categorical{before}")
    new = file(f"name: b, renamed_from: a, kind: categorical{after}")
    found = compare(old, new)
    assert fates(found, "feature") == {"b": fate}
    [change] = found.of("feature")
    says = ", its column was c, is b"
    assert any(says in reason for reason in change.reasons) == ((before, after) == C_AND_B)


def test_tables_are_shared_split_and_named():
    own = file("name: a, kind: categorical", "name: b, kind: categorical")
    shared = file(A, "name: b, kind: categorical, table: t", top="tables: {t: {}}")
    together = compare(own, shared)
    assert {(c.name, c.was, c.fate) for c in together.of("table")} == {
        ("t", None, "merged"), ("a", "a", "dropped"), ("b", "b", "dropped"),
    }  # fmt: skip
    assert fates(together, "feature") == {"a": "moved", "b": "moved"}
    apart = compare(shared, own)
    assert {(c.name, c.was, c.fate) for c in apart.of("table")} == {
        ("a", None, "moved"), ("b", None, "moved"), ("t", "t", "dropped"),
    }  # fmt: skip
    named = compare(file("name: a, kind: categorical"), in_table("full", "", A))
    assert {(c.name, c.was, c.fate) for c in named.of("table")} == {("t", "a", "renamed")}
    hashed = compare(
        own,
        file(A, "name: b, kind: categorical, table: t", top="tables: {t: {scheme: hash, rows: 9}}"),
    )
    assert fates(hashed)["t"] == "rehashed"
    unbounded = [
        line + ", encoding: hash"
        for line in ("name: a, kind: categorical, table: t", "name: b, kind: categorical, table: u")
    ]
    two = file(
        *unbounded, top="tables: {t: {scheme: unified, rows: 9}, u: {scheme: unified, rows: 9}}"
    )
    one = in_table(
        "unified", "rows: 9", *(line.replace("table: u", "table: t") for line in unbounded)
    )
    assert compare(two, one).resets == ("t",)


def test_names_of_names(feature_file):
    first = in_table("unified", "rows: 9", A)
    second = in_table("unified", "rows: 9", "name: b, renamed_from: a, kind: categorical, table: t")
    third = in_table("unified", "rows: 9", "name: c, renamed_from: a, kind: categorical, table: t")
    wrong = in_table("unified", "rows: 9", "name: c, renamed_from: b, kind: categorical, table: t")
    lost = in_table("unified", "rows: 9", "name: b, kind: categorical, table: t")
    assert [(c.was, c.fate) for c in compare(second, third).of("feature")] == [("b", "renamed")]
    assert fates(compare(second, third)) == {"t": "kept"}
    assert [(c.was, c.fate) for c in compare(second, first).of("feature")] == [("b", "renamed")]
    for new in (wrong, lost):
        found = compare(second, new)
        assert fates(found) == {"t": "rehashed"}
        assert "write `renamed_from: a`" in found.of("table")[0].reasons[0]
    with pytest.raises(FeatureConfigError, match=r"features\.c\.renamed_from: the old file has no"):
        compare(first, wrong)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"b": "a"}, {"b": None, "a": None}, {"b": "b"}),  # the new a is another
        ({"b": "a"}, {"a": None, "b": None}, {"b": "b"}),
        ({"b": "a"}, {"a": None}, {"a": "b"}),  # it has its first name back
        ({"b": "a"}, {"a": None, "c": None}, {"a": "b"}),
        ({"b": "a"}, {"c": "a"}, {"c": "b"}),
        ({"b": "a", "c": None}, {"b": None, "a": None, "c": None}, {"b": "b", "c": "c"}),
    ],
)
def test_a_first_name_that_is_there_again(old, new, expected):
    assert same_names(old, new) == expected


@pytest.mark.parametrize(
    ("old", "new", "fate", "words"),
    [
        ("[1, 5]", "[1, 3, 5]", "grown", "3 ranges, now 4, each within an old one"),
        ("[1, 5]", "[2]", "merged", "3 ranges, now 2; 2 of them lie over several"),
        ("[1, 5]", "[1, 5]", "kept", None),
        ("[1, 5]", "[1]", "merged", "1 of them lie over several"),
    ],
)
def test_ranges(old, new, fate, words):
    found = compare(
        file(f"name: n, kind: bucketized, boundaries: {old}"),
        file(f"name: n, kind: bucketized, boundaries: {new}"),
    )
    assert fates(found) == {"n": fate}
    assert words is None or words in found.of("table")[0].reasons[0]


OWN, B = "name: a, kind: categorical", "name: b, kind: categorical"
LIKE_B = "name: a, kind: categorical, column: a, like: b"
C = "name: c, kind: categorical"


@pytest.mark.parametrize(
    ("old", "new", "resets", "tables"),
    [
        # The rows of its own are lost, wherever they were.
        ((OWN, B), (LIKE_B, B), ("a",), {"a": "dropped", "b": "kept"}),
        ((A, B + ", table: t"), (LIKE_B, B + ", table: t"), ("a",), {"t": "shrunk"}),
        # What it is like now has no rows yet.
        ((OWN,), (LIKE_B, B), ("b",), {"b": "reset"}),
        ((LIKE_B, B), (LIKE_B.replace("like: b", "like: c"), B, C), ("c",),
         {"b": "shrunk", "c": "reset"}),
        # Its rows are still there.
        ((LIKE_B, B, C), (LIKE_B.replace("like: b", "like: c"), B, C), (),
         {"b": "shrunk", "c": "kept"}),
        ((LIKE_B, B), (OWN, B + ", column: b, like: a"), (), {"a": "renamed"}),
        ((LIKE_B, B), (LIKE_B, B), (), {"b": "kept"}),
    ],
)  # fmt: skip
def test_a_feature_becomes_like_another(old, new, resets, tables):
    sides = [file(*lines, top="tables: {t: {}}" if "table:" in str(lines) else "")
             for lines in (old, new)]  # fmt: skip
    found = compare(*sides)
    assert (found.resets, fates(found)) == (resets, tables)
    assert not any("made of the rows" in reason for c in found.changes for reason in c.reasons)


def test_a_feature_becomes_like_one_whose_scheme_is_kept_whole():
    qr = B + ", table: t"
    top = "tables: {t: {scheme: qr, rows: 9}}"
    found = compare(file(OWN, qr, top=top), file(LIKE_B, qr, top=top))
    assert (found.resets, fates(found)) == (("a",), {"t": "kept", "a": "dropped"})


ENTITY = "entity: {user: u, item: i, time: t}"
ITEM = "name: i, kind: categorical"
H = "name: h, kind: sequence, of: i, max_length: 5"


@pytest.mark.parametrize(
    ("old", "new", "what", "fate"),
    [
        (("", ITEM), ("", ITEM + ", pooling: sum"), ("feature", "i"), "changed"),
        (("", ITEM), ("", ITEM + ", fill: x"), ("feature", "i"), "changed"),
        (("", "name: d, kind: dense"), ("", "name: d, kind: dense, transform: sqrt"),
         ("feature", "d"), "changed"),
        (("", "name: v, kind: vector, size: 3"), ("", "name: v, kind: vector, size: 4"),
         ("feature", "v"), "widened"),
        ((ENTITY, ITEM, H), (ENTITY, ITEM, H + "0"), ("sequence", "h"), "grown"),
        ((ENTITY, ITEM, H + "0"), (ENTITY, ITEM, H), ("sequence", "h"), "shrunk"),
        ((ENTITY, ITEM, H), (ENTITY, ITEM, H + ", where: i > 1"), ("sequence", "h"), "changed"),
        ((ENTITY, ITEM, H), (ENTITY, ITEM), ("sequence", "h"), "dropped"),
        (("", ITEM, "name: d, kind: dense"), ("", "name: d, kind: dense", ITEM),
         ("setting", "features"), "moved"),
        (("label: {name: y}", ITEM), ("label: {name: z}", ITEM), ("setting", "label"), "changed"),
    ],
)  # fmt: skip
def test_what_a_line_means(old, new, what, fate):
    found = compare(file(*old[1:], top=old[0]), file(*new[1:], top=new[0]))
    changes = {(c.what, c.name): c for c in found.changes}
    assert changes[what].fate == fate
    assert found.exit_code == 1


def test_what_needs_no_migration_is_said_nevertheless():
    old = file(ITEM, top="label: {name: y}")
    found = compare(
        old, file(ITEM, top="label: {name: y, where: i > 1}\nsplit: leave_one_out\n" + ENTITY)
    )
    assert found.exit_code == 1  # by the entity
    found = compare(
        old, file(ITEM, top="label: {name: y, where: i > 1}\nsplit: {kind: random, seed: 4}")
    )
    assert found.exit_code == 0
    assert fates(found, "setting") == {"label": "kept", "split": "kept"}


def test_rows_of_roles():
    roles = "attention: {dim: 4}, representation: {scheme: hash, rows: 9}"
    old = in_table("decoupled", roles, A)
    assert compare(old, old).exit_code == 0
    wide = in_table("decoupled", roles.replace("dim: 4", "dim: 8"), A)
    [change] = compare(old, wide).of("table")
    assert (change.fate, change.reasons[0].partition(":")[0]) == ("widened", "attention")
    assert fates(compare(in_table("full", "", A), old)) == {"t": "rehashed"}
    assert fates(compare(old, in_table("full", "", A))) == {"t": "moved"}
    lost = in_table("decoupled", "attention: {dim: 4}, representation: {scheme: qr, rows: 9}", A)
    assert compare(old, lost).resets == ("t",)


def test_schemas_count_values(events):
    feature_set = file("name: a, kind: categorical")
    old = fit_schema(feature_set, events({"a": [*"xxyz"]}))
    stricter = file("name: a, kind: categorical, encoding: {min_count: 2}")
    [change] = compare(old, stricter).of("table")
    assert (change.fate, change.reasons) == ("shrunk", ("2 values leave",))
    [change] = compare(feature_set, stricter).of("table")
    assert (change.fate, "follows the data" in change.reasons[0]) == ("shrunk", True)
    numbers = fit_schema(feature_set, events({"a": [1, 2]}))
    assert compare(old, numbers).resets == ("a",)
    swapped = fit_schema(feature_set, events({"a": [*"zzzyyx"]}))
    assert fates(compare(old, swapped)) == {"a": "moved"}


# ------------------------------------------------------------------------------- random pairs
KINDS = st.sampled_from(
    [
        "categorical",
        "categorical, dim: 3",
        "categorical, table: t",
        "categorical, table: u",
        "categorical, table: t, encoding: {kind: hash, size: 7}",
        "categorical, encoding: {min_count: 2}",
        "bucketized, boundaries: [1, 2]",
        "bucketized, boundaries: [2], table: t",
        "dense",
        "vector, size: 3",
    ]
)
TABLES = st.sampled_from(
    [f"{scheme}{size}" for scheme, (size, _) in SCHEMES.items() if scheme != "mgqe"]
)


@st.composite
def files(draw, old_names=()):
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    kinds = [draw(KINDS) for _ in names]
    free = [name for name in old_names if name not in names]
    renames = {n: free.pop() for n in names if n not in old_names and free and draw(st.booleans())}
    lines = [
        f"name: {n}, kind: {kind}" + (f", renamed_from: {renames[n]}" if n in renames else "")
        for n, kind in zip(names, kinds, strict=True)
    ]
    read = [t for t in "tu" if any(f"table: {t}" in kind for kind in kinds)]
    tables = ", ".join(f"{t}: {{scheme: {draw(TABLES)}}}" for t in read)
    return file(*lines, top=f"tables: {{{tables}}}"), renames


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_everything_is_mentioned_once(data):
    old, _ = data.draw(files())
    new, renames = data.draw(files([f.name for f in old.features]))
    same = compare(old, old)
    assert same.exit_code == 0
    assert {change.fate for change in same.changes} == {"kept"}
    found = compare(old, new)
    for what in ("feature", "table"):
        changes = found.of(what)
        on_side = [
            {f.name for f in side.features} if what == "feature"
            else {side.table_of(f.name) for f in side.embedded}
            for side in (old, new)
        ]  # fmt: skip
        assert sorted(c.was for c in changes if c.was is not None) == sorted(on_side[0])
        assert sorted(c.name for c in changes if c.fate != "dropped") == sorted(on_side[1])
        assert all(
            (c.was is None)
            <= (
                c.fate
                in (
                    "new",
                    "moved",
                    "merged",
                    "rehashed",
                    "reset",
                    "unpacked",
                    "widened",
                    "narrowed",
                    "grown",
                    "shrunk",
                    "changed",
                )
            )
            for c in changes
        )
    by_name = {c.name: c for c in found.of("feature") if c.fate != "dropped"}
    for name, was in renames.items():
        assert by_name[name].was == was
        assert by_name[name].fate != "new"
    assert (found.exit_code == 2) == bool(found.resets)
    assert (found.exit_code == 2) == any(c.fate == "reset" for c in found.changes)
    assert (found.exit_code == 0) == all(c.fate == "kept" for c in found.changes)
    assert set(found.resets) <= {c.name for c in found.changes if c.fate == "reset"}
    assert all(c.fate in ALL_FATES for c in found.changes)
    assert all(c.reasons for c in found.changes if c.fate not in ("kept", "new", "dropped"))
