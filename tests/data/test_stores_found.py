"""Stores that are there are found; damaged ones are refused, passed over, or built again."""

import logging
import os
import shutil
import time

import pytest
from data.test_store import FEATURES, build, examples, raw_log

from features.errors import DataError
from features.load import load_feature_set
from recsys.data import store as store_module
from recsys.data.fingerprint import fingerprint_files
from recsys.data.module import RecsysData
from recsys.data.store import EncodedStore, prepare


@pytest.fixture
def built(tmp_path):
    return build(tmp_path, raw_log(60, num_users=9, seed=3))


def again(store):
    folder = store.path.parents[1]
    return prepare(load_feature_set(folder / "features.yaml"), folder, store.path.parent)


def forbid_building(patch):
    patch.setattr(store_module, "build", lambda *_, **__: pytest.fail("built again"))


def test_a_second_call_finds_it(built, monkeypatch, caplog):
    forbid_building(monkeypatch)
    caplog.set_level(logging.INFO)
    assert again(built) == built
    assert "hashed" not in caplog.text


def test_touched_data_are_hashed_and_found(built, monkeypatch, caplog):
    forbid_building(monkeypatch)
    caplog.set_level(logging.INFO)
    file = built.path.parents[1] / "events.parquet"
    file.write_bytes(file.read_bytes())
    assert again(built) == built
    assert "hashed" in caplog.text


def test_a_kept_time_of_modification_hides_no_change(tmp_path):
    file, cache = tmp_path / "a.parquet", tmp_path / "fingerprints.json"
    file.write_bytes(b"before")
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    before = fingerprint_files({"events": [file]}, cache=cache)
    file.write_bytes(b"behind")
    os.utime(file, ns=times)
    assert fingerprint_files({"events": [file]}, cache=cache) != before


def test_other_data_and_other_features_are_other_stores(built):
    folder = built.path.parents[1]
    other = build(folder, raw_log(60, num_users=9, seed=4))
    assert other.path != built.path
    longer = build(
        folder,
        raw_log(60, num_users=9, seed=4),
        features=FEATURES.replace("length: 3", "length: 4"),
    )
    assert longer.path != other.path
    assert built.path.is_dir()


def test_the_same_store_serves_whatever_the_tables(built, monkeypatch):
    forbid_building(monkeypatch)
    folder = built.path.parents[1]
    stored_otherwise = FEATURES.replace(
        "features:", "defaults: {dim: 5}\ntables: {t: {scheme: unified, rows: 9}}\nfeatures:"
    ).replace("column: price,", "column: price, table: t, probes: 2,")
    stored_otherwise = stored_otherwise.replace('"|"}', '"|", pooling: sum, dim: 3}')
    assert build(folder, raw_log(60, num_users=9, seed=3), features=stored_otherwise) == built
    data = RecsysData(
        str(folder / "features.yaml"), str(folder), batch_size=8, store=str(folder / "store")
    )
    assert data.store == built
    assert data.schema.feature_set == data.feature_set
    assert data.schema.feature_set.feature("hour").table == "t"
    assert built.schema.feature_set.feature("hour").table is None
    assert data.schema.fingerprint() == built.schema.fingerprint()


DAMAGES = {
    "cut": lambda path: cut(next((path / "examples" / "train").iterdir())),
    "missing": lambda path: (path / "histories" / "values" / "item.npy").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: cut(path / "manifest.json"),
    "other format": lambda path: (path / "manifest.json").write_text(
        (path / "manifest.json").read_text().replace('"format_version": 2', '"format_version": 1')
    ),
}


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_and_built_again(built, caplog, damage):
    before = {split: examples(built, split) for split in ("train", "val", "test")}
    DAMAGES[damage](built.path)
    with pytest.raises(DataError, match="delete it, and it is built again"):
        EncodedStore.open(built.path)
    assert again(built) == built
    assert "the store is built again" in caplog.text
    assert all(examples(built, split).equals(frame) for split, frame in before.items())


def test_an_interrupted_build_leaves_no_store(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recsys.data.building.ExampleWriter.write", stop)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, raw_log(30, num_users=4, seed=0))
    assert not list((tmp_path / "store").glob("*/manifest.json"))
    assert build(tmp_path, raw_log(30, num_users=4, seed=0)).manifest.rows["train"] > 0
    assert not list((tmp_path / "store").glob("*.unfinished"))


def test_where_the_data_is_not_a_damaged_store_is_passed_over(built):
    folder = built.path.parents[1]
    (folder / "events.parquet").rename(folder / "gone")
    newer = built.path.parent / "newer"
    shutil.copytree(built.path, newer)
    after = time.time() + 60
    os.utime(newer / "manifest.json", (after, after))
    (newer / "schema" / "schema.json").write_text("{")
    feature_set = load_feature_set(folder / "features.yaml")
    schema, found = store_module.schema_without_building(feature_set, folder, built.path.parent)
    assert schema.fingerprint() == built.schema.fingerprint()
    assert found == f"of {built.path}, since the data is not here"
