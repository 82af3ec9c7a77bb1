"""What `diff` calls for resets of, and what a migration cannot keep, are the same."""

from dataclasses import replace

import pytest
from migration.made import HEAD, schema, write_made
from tables.conftest import SPECS

from features.edits.diff import compare
from features.edits.renames import same_features, same_named_tables
from features.errors import RunConfigError
from features.table_spec import PlannedTable, StagedTable
from recsys.migration.migration import plan_migration
from recsys.migration.names import OldNames
from recsys.migration.report import dropped_values, layers
from recsys.migration.run import check_given_up
from recsys.migration.tables import Edit, plan_tables
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import logical_tables

assert HEAD
PAIR = """
tables: {t: {scheme: full, dim: 8}}
features:
  - {name: a, kind: categorical, table: t}
  - {name: b, kind: categorical, table: t}
"""
MORE = {"a": "abcdefghijk", "b": "abc"}
LESS = {"a": "abcdefghij", "b": "abc"}
ONE_TRAINING = {
    name: spec for name, spec in SPECS.items() if not isinstance(spec, StagedTable | PlannedTable)
}


def stored_as(spec, values):
    of = schema(PAIR, values)
    table = spec.model_copy(update={"dim": 8})
    return replace(of, feature_set=of.feature_set.model_copy(update={"tables": {"t": table}}))


def lost(old, new):
    names = OldNames(
        same_features(old.feature_set, new.feature_set),
        same_named_tables(old.feature_set, new.feature_set),
    )
    embedders = [Embedder(logical_tables(s), config=TablesConfig()) for s in (old, new)]
    edit = Edit(old, new, *embedders, names, zero_fields=False)
    return {name for plan in plan_tables(edit) for name in plan.lost}


@pytest.mark.parametrize("values", [LESS, MORE], ids=["same ids", "more ids"])
@pytest.mark.parametrize("edit", ["kept", "to full", "to hash", "to robe"])
@pytest.mark.parametrize("name", ONE_TRAINING)
def test_resets_are_what_is_lost(name, edit, values):
    spec = ONE_TRAINING[name]
    to = {"to full": "full", "to hash": "hash", "to robe": "robe"}.get(edit, name)
    old, new = stored_as(spec, LESS), stored_as(ONE_TRAINING[to], values)
    resets, gone = bool(compare(old, new).resets), bool(lost(old, new))
    # `diff` does not know that the weights of this one are hashed, so that no shape changes.
    assert resets == gone or (name == "multihash of many" and not gone)


LINES = {
    "a": "kind: categorical, dim: 8",
    "b": "kind: categorical, dim: 8",
    "c": "kind: categorical, column: c, like: a",
}
LIKE_B = "kind: categorical, column: a, like: b"


def of_lines(lines):
    text = "".join(f"  - {{name: {name}, {line}}}\n" for name, line in lines.items())
    return schema(f"features:\n{text}", {"a": "xyz", "b": "vw", "c": "xy"})


@pytest.mark.parametrize(
    ("edit", "resets", "dropped"),
    [
        ({}, [], {}),
        ({"a": LIKE_B, "c": "kind: categorical, like: b"}, ["a"], {"a": [*"xyz"]}),
        # What was like it goes on with rows of x and y.
        ({"a": LIKE_B, "c": "kind: categorical, dim: 8"}, ["a"], {"a": ["z"]}),
        ({"b": "kind: dense"}, ["b"], {"b": [*"vw"]}),
        ({"b": "kind: categorical, dim: 8, column: d"}, ["b"], {"b": [*"vw"]}),
        ({"b": None}, [], {"b": [*"vw"]}),
    ],
)
def test_nothing_is_lost_without_a_word(tmp_path, edit, resets, dropped):
    write_made(tmp_path / "old.ckpt", of_lines(LINES))
    lines = {name: line for name, line in {**LINES, **edit}.items() if line is not None}
    migration = plan_migration(tmp_path / "old.ckpt", of_lines(lines))
    found = {name: list(values["value"]) for name, values in dropped_values(migration).items()}
    assert found == dropped
    check_given_up(migration, resets)
    for name in resets:
        with pytest.raises(RunConfigError, match=f"run `migrate` with `--reset {name}`"):
            check_given_up(migration, ())


def test_a_label_under_another_name_is_another_label(tmp_path):
    old = of_lines(LINES)
    [label] = old.feature_set.label
    buy = label.model_copy(update={"name": "buy"})
    write_made(tmp_path / "old.ckpt", old)

    def migrated(*labels):
        feature_set = old.feature_set.model_copy(update={"label": labels})
        return plan_migration(tmp_path / "old.ckpt", replace(old, feature_set=feature_set))

    check_given_up(migrated(buy, label), ())
    other = migrated(buy)
    check_given_up(other, ["dense"])
    with pytest.raises(RunConfigError, match=r"labels was there before: .*`--reset dense`"):
        check_given_up(other, ())
    found = layers(other)
    assert found["reset"] == ["ranker.head.weight", "ranker.head.bias"]
    assert not set(found["reset"]) & {*found["edited"], *found["new"]}
    [change] = other.difference.of("setting")
    assert (change.name, change.fate) == ("label", "changed")
    assert "migrate needs `--reset dense`" in change.reasons[0]
