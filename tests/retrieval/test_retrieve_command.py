"""Lists of items are those of the vectors' dot products, whatever is seen, allowed or denied."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from bundles import score, train
from commands import recsys_command
from test_score_sequences import SEQUENCE

from recsys.scoring.scorer import Scorer

NAMES = ["SASRec", "BERT4Rec"]  # the second has a bias for each item


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("retrieve"), NAMES, features=SEQUENCE)


def retrieve(trained, out, *arguments, name="SASRec", data=None):
    bundle, data = trained / "bundles" / name, (data or trained) / "data"
    assert recsys_command("retrieve", bundle, data, "--out", out, *arguments) == 0
    assert not out.with_name(out.name + ".partial").exists()
    return pl.read_parquet(out / "part-*.parquet")


def by_vectors(folder, *, seen, allowed, k):
    """Items and scores of each user, from the files of `--vectors` alone."""
    users, items = (
        pl.read_parquet(folder / "vectors" / f"{n}.parquet") for n in ("users", "items")
    )
    vectors_UD, vectors_VD = users["vector"].to_numpy(), items["vector"].to_numpy()
    assert np.array_equal(vectors_UD, np.load(folder / "vectors" / "users.npy"))
    assert np.array_equal(vectors_VD, np.load(folder / "vectors" / "items.npy"))
    found = {}
    for user, scores_V in zip(users["user_id"], vectors_UD @ vectors_VD.T, strict=True):
        order = [
            (-s, place)
            for place, s in enumerate(scores_V.tolist())
            if items["item_id"][place] in allowed
            and items["item_id"][place] not in seen.get(user, ())
        ]
        found[user] = [(items["item_id"][place], -s) for s, place in sorted(order)[:k]]
    return found


def as_lists(frame):
    assert frame.columns == ["user_id", "item_id", "score", "rank"]
    found = {}
    for (user,), part in frame.group_by("user_id", maintain_order=True):
        assert part["rank"].to_list() == list(range(1, len(part) + 1))
        found[user] = list(zip(part["item_id"], part["score"], strict=True))
    return found


def assert_same(found, expected):
    assert found.keys() == {user for user, items in expected.items() if items}
    for user, items in found.items():
        assert [item for item, _ in items] == [item for item, _ in expected[user]]
        scores = [s for _, s in expected[user]]
        assert [s for _, s in items] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep_seen", [False, True])
def test_lists_are_those_of_the_vectors(trained, tmp_path, name, keep_seen):
    flags = ["--keep-seen"] if keep_seen else []
    frame = retrieve(trained, tmp_path / "out", "--vectors", "--k", 9, *flags, name=name)
    events = pl.read_parquet(trained / "data" / "events.parquet")
    seen = {user: set(part["item_id"]) for (user,), part in events.group_by("user_id")}
    items = set(events["item_id"])
    expected = by_vectors(tmp_path / "out", seen={} if keep_seen else seen, allowed=items, k=9)
    assert_same(as_lists(frame), expected)
    assert set(expected) == set(events["user_id"])
    manifest = Scorer(trained / "bundles" / name).manifest
    width = np.load(tmp_path / "out" / "vectors" / "items.npy").shape[1]
    assert width == manifest.width + (name == "BERT4Rec") == 8 + (name == "BERT4Rec")
    if not keep_seen:  # and those of `score`
        scores = score(trained, name, trained / "data", tmp_path / "scores", "-k", 9)
        keys = ["user_id", "rank"]
        assert scores.sort(keys).equals(frame.sort(keys))


def test_allowed_denied_and_wanted(trained, tmp_path, capsys):
    events = pl.read_parquet(trained / "data" / "events.parquet")
    items = events["item_id"].unique().sort().to_list()
    users = events["user_id"].unique().sort().to_list()
    (tmp_path / "allow.txt").write_text("\n".join([*items[:12], "nothing", "", items[0]]))
    pl.DataFrame({"note": ["x"] * 3, "item_id": [items[1], items[20], None]}).write_csv(
        tmp_path / "deny.csv"
    )
    pl.DataFrame({"u": [users[5], users[2], users[5], "nobody"]}).write_parquet(
        tmp_path / "users.parquet"
    )
    frame = retrieve(
        trained,
        tmp_path / "out",
        "--keep-seen",
        "--vectors",
        *("--allow", tmp_path / "allow.txt", "--deny", tmp_path / "deny.csv"),
        *("--users", tmp_path / "users.parquet"),
    )
    printed = capsys.readouterr()
    assert "warning: --allow: 1 of 13 ids in" in printed.err
    assert "are no items of the bundle, got 'nothing'; they are left out" in printed.err
    assert "--users: 1 of 3 ids" in printed.err
    assert "got 'nobody'" in printed.err
    assert "retrieved 22 rows for 2 users, from 11 items" in printed.out
    assert frame["user_id"].unique(maintain_order=True).to_list() == [users[5], users[2]]
    allowed = set(items[:12]) - {items[1]}
    expected = by_vectors(tmp_path / "out", seen={}, allowed=allowed, k=100)
    assert_same(as_lists(frame), expected)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["users"] == 2
    assert summary["items"] == 11
    assert len(summary["warnings"]) == 2


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a\nb\n", ["--allow"], "--allow: names no known item of the bundle, got 'a', 'b' in"),
        ("a\nb\n", ["--users"], "--users: names no known user of the data, got 'a', 'b' in"),
        ("", ["--users"], "--users: names no known user of the data, got no id in"),
        ("all", ["--deny"], "--deny: leaves no item"),
        (None, ["--deny"], "--deny: cannot be read, got"),
        ("", ["--k", 0, "--deny"], "--k: is no number of items, got 0; allowed 1 and more"),
    ],
)
def test_mistakes_leave_nothing(trained, tmp_path, capsys, content, arguments, message):
    if content == "all":
        events = pl.read_parquet(trained / "data" / "events.parquet")
        content = "\n".join(events["item_id"].unique())
    if content is not None:
        (tmp_path / "ids.txt").write_text(content)
    bundle, out = trained / "bundles" / "SASRec", tmp_path / "out"
    options = ("--out", out, *arguments, tmp_path / "ids.txt")
    assert recsys_command("retrieve", bundle, trained / "data", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["taken/out", 300 * "a"])
@pytest.mark.parametrize("verb", ["retrieve", "compare-vectors", "export"])
def test_a_folder_that_cannot_be_made(trained, tmp_path, capsys, verb, name):
    (tmp_path / "taken").write_text("a file")
    read = (trained / "bundles" / "SASRec", trained / "data")
    if verb == "export":
        read = (trained / "runs" / "SASRec", "--unchecked")
    assert recsys_command(verb, *read, "--out", tmp_path / name) == 2
    said = capsys.readouterr().err
    assert f"--out: cannot be made, got {tmp_path / name} (" in said
    assert "; give another folder, or make room and let the one above it be written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_of_several_columns_names_the_right_one(trained, tmp_path, capsys):
    pl.DataFrame({"a": ["x"], "b": ["y"]}).write_csv(tmp_path / "ids.csv")
    bundle = trained / "bundles" / "SASRec"
    options = ("--out", tmp_path / "out", "--users", tmp_path / "ids.csv")
    assert recsys_command("retrieve", bundle, trained / "data", *options) == 2
    assert "no column 'user_id' in" in capsys.readouterr().err


def test_parts_and_threads_change_nothing(trained, tmp_path, monkeypatch):
    whole = retrieve(trained, tmp_path / "whole")
    monkeypatch.setattr("recsys.retrieval.run._USERS_OF_PART", 7)
    monkeypatch.setattr("recsys.scoring.users._USERS_OF_BATCH", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parts = retrieve(trained, tmp_path / "parts")
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "parts").glob("part-*.parquet"))) > 3
    assert parts.drop("score").equals(whole.drop("score"))
    assert parts["score"].to_list() == pytest.approx(whole["score"].to_list(), abs=1e-6)


def test_an_index_lies_beside_the_bundle_and_is_used_again(trained, tmp_path, capsys):
    pytest.importorskip("faiss")
    exact = retrieve(trained, tmp_path / "exact", "--k", 9)
    for number, done in enumerate(("built", "reused")):
        frame = retrieve(trained, tmp_path / f"out{number}", "--k", 9, "--index", "hnsw")
        printed = capsys.readouterr().out
        assert f"{done} SASRec.hnsw-" in printed
        assert ".faiss: recall@9 1.0000 against exact, of 39 users" in printed
        assert frame.drop("score").equals(exact.drop("score"))
    [file] = (trained / "bundles").glob("SASRec.hnsw-*.faiss")
    denied = tmp_path / "deny.txt"
    denied.write_text(exact["item_id"][0])
    retrieve(trained, tmp_path / "other", "--k", 9, "--index", "hnsw", "--deny", denied)
    assert len(list((trained / "bundles").glob("SASRec.hnsw-*.faiss"))) == 2
    assert file.is_file()


def test_an_index_of_too_few_items_is_exact(trained, tmp_path, capsys):
    pytest.importorskip("faiss")
    allowed = tmp_path / "allow.txt"
    allowed.write_text("i3")
    for number in range(2):
        options = ("--index", "pq", "--allow", allowed, "--keep-seen")
        frame = retrieve(trained, tmp_path / f"out{number}", *options)
        assert set(frame["item_id"]) == {"i3"}
        message = "--index pq: learns codes of 2 items and more, got 1; it is searched exactly"
        assert f"warning: {message}" in capsys.readouterr().err
        summary = json.loads((tmp_path / f"out{number}" / "summary.json").read_text())
        assert summary["warnings"] == [message]
        assert summary["index"]["recall"] == 1


def test_short_vectors_are_the_first_numbers(trained, tmp_path, capsys):
    run = trained / "runs" / "BERT4Rec"
    short = tmp_path / "bundles" / "BERT4Rec"
    assert recsys_command("export", run, "--out", short, "--width", 3) == 0
    retrieve(trained, tmp_path / "full", "--vectors", name="BERT4Rec")
    frame = retrieve(tmp_path, tmp_path / "short", "--vectors", data=trained, name="BERT4Rec")
    for name in ("users", "items"):
        full, cut = (np.load(tmp_path / n / "vectors" / f"{name}.npy") for n in ("full", "short"))
        np.testing.assert_allclose(cut, full[:, [0, 1, 2, 8]], atol=1e-6)
    assert len(frame) > 100
    capsys.readouterr()
    assert recsys_command("export", run, "--out", tmp_path / "none", "--width", 9) == 2
    assert "--width: is no width of the vectors, got 9; allowed 1 to 8" in capsys.readouterr().err
