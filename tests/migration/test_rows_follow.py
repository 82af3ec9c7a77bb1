"""Rows and their state follow raw values between row schemes, number by number."""

import json
from collections import defaultdict
from itertools import chain

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from migration.made import schema, write_made

from features.edits.continuing import continue_schema
from recsys.checkpoint import read_manifest, read_schema
from recsys.migration.migration import plan_migration
from recsys.migration.stored import StoredTensors
from recsys.tables.initial import initial_rows
from recsys.tables.logical import logical_tables
from recsys.tables.schemes import build_scheme
from recsys.tables.stores import table_names

VALUES = "abcdefghijkl"


def written(directory, before, after, **options):
    """The numbers before and after, and what the migration says of it."""
    before_tensors = write_made(directory / "old.ckpt", before, **options)
    now = continue_schema(before, after.feature_set, fitted=after)
    migration = plan_migration(directory / "old.ckpt", now)
    reports = migration.write(directory / "new.ckpt")
    stored = StoredTensors(directory / "new.ckpt")
    return before_tensors, stored.tensors(list(stored.shapes)), migration, reports


def cells(of, key):
    """Where the vector of a feature's value lies: (table, row, column) by number."""
    found = {}
    for table in logical_tables(of):
        scheme = build_scheme(table)
        dims = {t.name: t.dim for t in scheme.physical_tables}
        for reader in table.readers:
            if reader.key != key:
                continue
            ids = {r.key: torch.zeros(0, dtype=torch.int64) for r in table.readers}
            ids[key] = torch.arange(reader.num_ids)
            rows = scheme.remap(ids)
            lookups = [x for x in scheme.lookups if x.reader == key]
            values = [None, *of.vocabulary_of(key).values]
            for number, value in enumerate(values):
                found[value] = [
                    [(x.table, int(rows[x.name][number]), c) for c in range(dims[x.table])]
                    for x in lookups
                ]
    return found


def expected_sources(before, after, names):
    """By new (table, row, column): weights by the old ones that it comes from."""
    found = defaultdict(lambda: defaultdict(float))
    unified = [
        {n for n, t in s.feature_set.resolved_tables().items() if t.scheme == "unified"}
        for s in (before, after)
    ]
    for key, was in names.items():
        old, new = cells(before, was), cells(after, key)
        counts = dict(
            zip(before.vocabulary_of(was).values, before.vocabulary_of(was).counts, strict=True)
        )
        by_probe = (
            before.feature_set.table_of(was) in unified[0]
            and after.feature_set.table_of(key) in unified[1]
        )
        for value, probes in new.items():
            if value not in old:
                continue
            if by_probe:
                pairs = [p for n, o in zip(probes, old[value], strict=False) for p in zip(n, o)]  # noqa: B905
            else:
                pairs = zip(chain(*probes), chain(*old[value]), strict=False)
            for here, there in pairs:
                found[here][there] += counts.get(value, 1)
    return found


def check(before, migration, tensors, names, reports):
    """Every number of every table and of its state."""
    before_tensors, after_tensors = tensors
    after = migration.edit.new
    old_places = table_names(n.removeprefix("model.") for n in before_tensors)
    new_places = table_names(n.removeprefix("model.") for n in after_tensors)
    sources = expected_sources(before, after, names)
    for plan in migration.tables:
        report = reports[plan.scheme.table.name]
        assert report.rows == sum(t.num_rows for t in plan.scheme.physical_tables)
        counts = report.counts
        assert counts.kept + counts.merged + counts.initialised == report.rows
        for table in plan.scheme.physical_tables:
            now = after_tensors["model." + new_places[table.name]]
            first = initial_rows(table, seed=0)
            state = after_tensors.get(f"fused.{new_places[table.name]}.{table.name}.momentum1")
            for row in range(table.num_rows):
                for column in range(table.dim):
                    of = sources.get((table.name, row, column), {})
                    got = now[row, column].item()
                    if not of:
                        if plan.way != "same rows":
                            assert got == first[row, column].item()
                        continue
                    read = [
                        (before_tensors["model." + old_places[t]][r, c].item(), w)
                        for (t, r, c), w in of.items()
                    ]
                    if len(read) == 1:
                        assert got == read[0][0]
                    else:
                        mean = sum(v * w for v, w in read) / sum(w for _, w in read)
                        assert got == pytest.approx(mean, abs=1e-5)
                    if state is not None and state.dim() == 2:
                        read = [
                            (before_tensors[f"fused.{old_places[t]}.{t}.momentum1"][r, c].item(), w)
                            for (t, r, c), w in of.items()
                        ]
                        mean = sum(v * w for v, w in read) / sum(w for _, w in read)
                        assert state[row, column].item() == pytest.approx(mean, abs=1e-5)
                        if len(read) == 1:
                            assert state[row, column].item() == read[0][0]


@st.composite
def tables(draw):
    rows = st.integers(6, 14)
    dim = st.sampled_from([4, 8])
    found = {}
    for name in ("s", "t"):
        scheme = draw(st.sampled_from(["full", "hash", "unified"]))
        sizes = {} if scheme == "full" else {"rows": draw(rows)}
        found[name] = {"scheme": scheme, "dim": draw(dim), **sizes}
    return found


@st.composite
def features(draw, of, pool, renamed=()):
    names = draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
    found = []
    for name in names:
        table = draw(st.sampled_from([None, *of]))
        line = {"name": name, "kind": "categorical"}
        if table is None:
            line["dim"] = draw(st.sampled_from([4, 8]))
        else:
            line["table"] = table
            if of[table]["scheme"] == "unified":
                line["probes"] = draw(st.integers(1, 2))
        if name in renamed:
            line |= {"renamed_from": renamed[name], "column": renamed[name]}
        found.append(line)
    return found


def text(of, lines):
    used = {line.get("table") for line in lines}
    named = json.dumps({n: t for n, t in of.items() if n in used})
    return f"tables: {named}\nfeatures: {json.dumps(lines)}\n"


@st.composite
def edits(draw):
    before_tables, after_tables = draw(tables()), draw(tables())
    if draw(st.booleans()):
        after_tables["s"] = before_tables["s"]
    before = draw(features(before_tables, ["a", "b", "c", "d"]))
    # A name that was not there is refused as a slip of the pen, see `compare`.
    renamed = {"new": "c"} if "c" in {line["name"] for line in before} else {}
    after = draw(features(after_tables, ["a", "b", "new", "other"], renamed))
    values = st.lists(st.sampled_from(VALUES), min_size=1, unique=True)
    known = {n: draw(values) for n in "abcd"}
    grown = {n: known[n] + [v for v in draw(values) if v not in known[n]] for n in "abc"}
    now = {"a": grown["a"], "b": grown["b"], "new": grown["c"], "other": draw(values)}
    return schema(text(before_tables, before), known), schema(text(after_tables, after), now)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(edit=edits())
def test_every_number_follows_its_value(tmp_path, edit):
    before, after = edit
    *tensors, migration, reports = written(tmp_path, before, after)
    check(before, migration, tensors, migration.edit.names.features, reports)
    assert read_schema(tmp_path / "new.ckpt").fingerprint() == migration.edit.new.fingerprint()
    assert read_manifest(tmp_path / "new.ckpt").step == 0
