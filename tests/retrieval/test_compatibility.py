"""The report of two bundles is that of a plain loop over users and items, by raw ids."""

import json
import math

import polars as pl
import pytest
from bundles import train
from commands import recsys_command
from test_score_sequences import SEQUENCE
from upgrades import bundle_of

from recsys.data.scoring import encode_for_scoring, user_batches
from recsys.scoring.scorer import Scorer


def by_hand(bundle, events, folder):
    """Vectors of users and of items, by raw id, of histories without their last event."""
    folder.mkdir()
    events.filter(pl.col("place") < pl.col("last")).write_parquet(folder / "events.parquet")
    scorer = Scorer(bundle)
    store = encode_for_scoring(scorer.schema, folder, folder / "encoded")
    [batch] = user_batches(store, batch_size=10**6)
    names = pl.read_parquet(store.users_file)["user"].gather(batch.users_B.tolist())
    users = dict(zip(names, scorer.user_vectors(batch), strict=True))
    items = scorer.schema.vocabulary_of("item_id").values
    return users, dict(zip(items, scorer.item_vectors_VD[1:], strict=True))


def lists_by_hand(users, items, held_out):
    """Items by falling score, without those seen, by user."""
    found = {}
    for user, (seen, target) in held_out.items():
        scores = {n: float(users[user] @ v) for n, v in items.items() if n not in seen - {target}}
        found[user] = sorted(scores, key=lambda n: -scores[n])
    return found


def crossings_by_hand(old, new, events, folder):
    (old_users, old_items), (new_users, new_items) = (
        by_hand(bundle, events, folder / name) for name, bundle in (("old", old), ("new", new))
    )
    held_out = {}
    for (user,), part in events.sort("place").group_by("user_id"):
        items = part["item_id"].to_list()
        if len(items) > 1:
            held_out[user] = (set(items[:-1]), items[-1])
    asked = {
        ("old", "old"): (old_users, old_items),
        ("new", "old"): (new_users, old_items),
        ("old", "new"): (old_users, new_items),
        ("new", "new"): (new_users, new_items),
        ("new", "old + new"): (new_users, new_items | old_items),
    }
    if not new_items.keys() - old_items.keys():
        asked.pop(("new", "old + new"))
    lists = {pair: lists_by_hand(*of, held_out) for pair, of in asked.items()}
    wanted = []
    for pair, found in lists.items():
        places = [
            found[user].index(target) + 1 if target in found[user] else math.inf
            for user, (_, target) in held_out.items()
        ]
        overlaps = [
            [len({*mine[:100]} & {*other[:100]}) / len(other[:100]) for mine, other in pairs]
            for of in (("old", "old"), ("new", "new"))
            if (pairs := [(found[user], lists[of][user]) for user in found])
        ]
        columns = (
            [place <= 10 for place in places],
            [1 / math.log2(place + 1) if place <= 10 else 0 for place in places],
            *overlaps,
        )
        means = [sum(column) / len(held_out) for column in columns]
        wanted.append((*pair, len(asked[pair][1]), *(pytest.approx(m, abs=1e-6) for m in means)))
    return wanted, held_out, old_items.keys(), new_items.keys()


def places(events):
    """Each event's place among those of its user, and the last one."""
    place = pl.int_range(pl.len()).over("user_id")
    events = events.sort("timestamp", maintain_order=True).with_columns(place=place)
    return events.with_columns(last=pl.col("place").max().over("user_id"))


@pytest.mark.parametrize(("first", "second", "length"), [("old", "new", 7), ("new", "old", 100)])
def test_all_numbers_are_those_of_a_plain_loop(
    generations, tmp_path, capsys, monkeypatch, first, second, length
):
    monkeypatch.setattr("recsys.retrieval.held_out._BATCH", length)
    events = places(pl.read_parquet(generations / "new" / "data" / "events.parquet"))
    bundles = [bundle_of(generations, name) for name in (first, second)]
    wanted, held_out, old_items, new_items = crossings_by_hand(*bundles, events, tmp_path)
    code = recsys_command("compatibility", *bundles, generations / "new" / "data", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [tuple(crossing.values()) for crossing in found["crossings"]] == wanted
    assert found["num_users"] == len(held_out) > 30
    assert found["num_apart"] == 0
    assert found["only_old"] == [n for n in old_items if n not in new_items]
    assert found["only_new"] == [n for n in new_items if n not in old_items]
    assert found["num_common"] == len(old_items & new_items)
    assert found["unknown_targets"] == {
        name: sum(target not in known for _, target in held_out.values())
        for name, known in (("old", old_items), ("new", new_items))
    }
    ndcg = [crossing["ndcg"] for crossing in found["crossings"]]
    assert found["is_compatible"] == (ndcg[1] >= ndcg[0])
    assert code == (0 if found["is_compatible"] else 1)


def test_a_bundle_is_compatible_with_itself(generations, capsys):
    bundle = bundle_of(generations, "new")
    assert recsys_command("compatibility", bundle, bundle, generations / "new" / "data") == 0
    printed = capsys.readouterr().out
    assert "\ncompatible: on old items, NDCG@10 is" in printed
    assert printed.count("1.0000") == 8
    assert "only" not in printed


def test_what_is_printed(generations, capsys):
    old, new = bundle_of(generations, "old"), bundle_of(generations, "new")
    code = recsys_command("compatibility", old, new, generations / "new" / "data")
    printed = capsys.readouterr().out
    assert code in (0, 1)
    assert ("not compatible: on old items" in printed) == (code == 1)
    known = [len(Scorer(bundle).item_vectors_VD) - 1 for bundle in (old, new)]
    assert f"only NEW_BUNDLE knows {known[1] - known[0]} items: '" in printed
    assert "only OLD_BUNDLE" not in printed
    assert "OLD_BUNDLE does not know the last item of" in printed


def test_feature_files_that_keep_other_events(generations, tmp_path, capsys):
    """Of users whose last event only one of both keeps, nothing is compared."""
    where = SEQUENCE.replace(
        "events: events.parquet", "events: {path: events.parquet, where: \"device <> 'tablet'\"}"
    )
    events = places(pl.read_parquet(generations / "new" / "data" / "events.parquet"))
    train(tmp_path, ["BERT4Rec"], features=where)
    capsys.readouterr()
    other = tmp_path / "bundles" / "BERT4Rec"
    new, data = bundle_of(generations, "new"), generations / "new" / "data"
    assert recsys_command("compatibility", new, other, data, "--json") in (0, 1)
    printed = capsys.readouterr().out  # training in this process has left its log on
    found = json.loads(printed[printed.index("{") :])
    kept = places(events.drop("place", "last").filter(pl.col("device") != "tablet"))
    of = [
        {r["user_id"]: r["item_id"] for r in f.filter(place=pl.col("last"), last=pl.col("last"))
         .filter(pl.col("last") > 0).iter_rows(named=True)}
        for f in (events, kept)
    ]  # fmt: skip
    same = [u for u in of[0].keys() & of[1].keys() if of[0][u] == of[1][u]]
    assert found["num_users"] == len(same) > 5
    assert found["num_apart"] == len(of[0].keys() | of[1].keys()) - len(same) > 5


# ----------------------------------------------------------------------------------- mistakes
def test_bundles_that_cannot_be_compared(generations, tmp_path, capsys):
    new, data = bundle_of(generations, "new"), generations / "new" / "data"
    plain = bundle_of(generations, "new", "SASRec")
    assert recsys_command("compatibility", new, plain, data) == 2
    says = "NEW_BUNDLE: has other vectors than OLD_BUNDLE, got 8 numbers, and 8 numbers and a bias"
    assert says in capsys.readouterr().err
    assert recsys_command("compatibility", new, data, data) == 2
    assert f"{data}: is no bundle" in capsys.readouterr().err
    assert recsys_command("compatibility", new, new, tmp_path) == 2
    assert "events.parquet" in capsys.readouterr().err


def test_data_without_a_second_event(generations, tmp_path, capsys):
    events = pl.read_parquet(generations / "new" / "data" / "events.parquet")
    events.unique("user_id").write_parquet(tmp_path / "events.parquet")
    bundle = bundle_of(generations, "new")
    assert recsys_command("compatibility", bundle, bundle, tmp_path) == 2
    says = f"{tmp_path}: has no user to ask for, got none with two events or more"
    assert says in capsys.readouterr().err
