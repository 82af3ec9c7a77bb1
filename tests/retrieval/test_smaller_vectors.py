"""Funnels, codes and their comparison find what plain loops over the vectors find."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from bundles import train
from commands import recsys_command
from modes import as_any_new_file
from test_score_sequences import SEQUENCE

from features.errors import RunConfigError
from recsys.bundle import MANIFEST, read_bundle
from recsys.data.scoring import encode_for_scoring
from recsys.retrieval.codes import check_bits, default_bits, split_users

NAMES = ["SASRec", "BERT4Rec"]  # the second has a bias for each item
WIDTHS = (2, 4)  # of 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("smaller")
    return train(directory, NAMES, features=SEQUENCE, prefix_widths=[4, 2])


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("recsys.codes.fitting._STEPS", 30)


def vectors(folder):
    """Raw ids and vectors of users and items, from the files of `--vectors`."""
    users, items = (
        pl.read_parquet(folder / "vectors" / f"{name}.parquet") for name in ("users", "items")
    )
    named = (users["user_id"].to_list(), items["item_id"].to_list())
    return *named, users["vector"].to_numpy(), items["vector"].to_numpy()


def first_numbers(values, width):
    """The first ones, and that of the bias where there is one beyond the 8."""
    return np.concatenate([values[:, :width], values[:, 8:]], axis=1)


def histories(data):
    events = pl.read_parquet(data / "events.parquet")
    order = pl.read_parquet(data / "events.parquet").sort("timestamp", maintain_order=True)
    assert set(events["user_id"]) == set(order["user_id"])
    return {u: part["item_id"].to_list() for (u,), part in order.group_by("user_id")}


def retrieve(bundle, data, out, *arguments):
    return recsys_command("retrieve", bundle, data, "--out", out, *arguments)


@pytest.mark.parametrize("name", NAMES)
def test_a_funnel_keeps_the_best_of_the_first_numbers(trained, tmp_path, capsys, name):
    bundle, data, k = trained / "bundles" / name, trained / "data", 2
    manifest, _ = read_bundle(bundle)
    assert manifest.prefix_widths == WIDTHS
    options = ("--k", k, "--index", "funnel", "--width", 4, "--vectors", "--keep-seen")
    assert retrieve(bundle, data, tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    assert "funnel by the first 4 numbers: recall@2 " in printed
    frame = pl.read_parquet(tmp_path / "out" / "part-*.parquet")
    users, items, of_users, of_items = vectors(tmp_path / "out")
    cheap = first_numbers(of_users, 4) @ first_numbers(of_items, 4).T
    exact, shares = of_users @ of_items.T, []
    for row, user in enumerate(users):
        kept = np.argsort(-cheap[row], kind="stable")[: 4 * k]
        best = sorted(kept, key=lambda place, row=row: -exact[row, place])[:k]
        found = frame.filter(user_id=user)
        assert found["item_id"].to_list() == [items[place] for place in best]
        assert found["score"].to_list() == pytest.approx(exact[row, best].tolist(), abs=1e-5)
        shares.append(len({*best} & {*np.argsort(-exact[row])[:k]}) / k)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["index"]
    assert summary["recall"] == pytest.approx(np.mean(shares))
    assert summary["width"] == 4
    assert retrieve(bundle, data, tmp_path / "fewest", "--index", "funnel") == 0
    assert "funnel by the first 2 numbers: recall@100 1.0000" in capsys.readouterr().out


def test_a_cut_bundle_has_the_smaller_widths(trained, tmp_path):
    run, bundle = trained / "runs" / "SASRec", tmp_path / "b"
    assert recsys_command("export", run, "--out", bundle, "--width", 4, "--unchecked") == 0
    assert read_bundle(bundle)[0].prefix_widths == (2,)


@pytest.fixture
def bundle(trained, tmp_path):
    return shutil.copytree(trained / "bundles" / "BERT4Rec", tmp_path / "b")


def older(bundle):
    """A bundle of a version that knew no prefix widths."""
    content = json.loads((bundle / MANIFEST).read_text())
    del content["prefix_widths"]
    (bundle / MANIFEST).write_text(json.dumps(content))


MISTAKES = [
    (("--index", "funnel", "--width", 3), "--width: was not trained for, got 3; allowed 2, 4"),
    (("--index", "hnsw", "--width", 4), "--width: is of --index funnel, got 4 with --index hnsw"),
    (("--width", 4), "--width: is of --index funnel, got 4 with --index exact; leave it out"),
    (("--index", "funnel", "--bits", 16), "--bits: is of --index codes, got 16 with --index"),
    (("--index", "codes"), "--index codes: there are no codes of"),
    (("--index", "codes", "--bits", 64), "there are no codes of 64 bits of"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_of_searches(trained, bundle, tmp_path, capsys, options, message):
    assert retrieve(bundle, trained / "data", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_funnel_needs_trained_widths(trained, bundle, tmp_path, capsys):
    older(bundle)
    out = tmp_path / "out"
    assert retrieve(bundle, trained / "data", out, "--index", "funnel", "--width", 4) == 2
    assert "train with model.prefix_widths, and export again" in capsys.readouterr().err
    assert retrieve(bundle, trained / "data", out) == 0


def fit_codes(bundle, data, *arguments):
    return recsys_command("fit-codes", bundle, data, *arguments)


def test_codes_lie_beside_the_bundle_and_are_searched(trained, bundle, tmp_path, capsys):
    data, k = trained / "data", 7
    assert fit_codes(bundle, data) == 0
    printed = capsys.readouterr().out
    [file] = tmp_path.glob("b.codes-16-*.safetensors")
    assert f"wrote {file}: 30 items of 2 bytes instead of 36" in printed
    assert "of 6 users that the codes were not fitted on" in printed
    assert "1.0000 with candidates scored by their vectors" in printed
    before = file.read_bytes()
    assert as_any_new_file(file)
    assert fit_codes(bundle, data, "--bits", 16) == 2
    assert "exists already, got codes of 16 bits of this bundle" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert retrieve(bundle, data, tmp_path / "exact", "--k", k) == 0
    assert retrieve(bundle, data, tmp_path / "found", "--k", k, "--index", "codes") == 0
    assert f"reused {file.name}: recall@7 " in capsys.readouterr().out
    exact, found = (
        pl.read_parquet(tmp_path / name / "part-*.parquet") for name in ("exact", "found")
    )
    both = found.join(exact, on=["user_id", "item_id"])
    assert both["score"].to_list() == pytest.approx(both["score_right"].to_list(), abs=1e-5)
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())["index"]
    assert summary["recall"] == pytest.approx(len(both) / len(exact))
    assert summary["bits"] == 16
    # Two kinds: one is to be named.
    file.with_name(file.name.replace("-16-", "-32-")).write_bytes(before)
    assert retrieve(bundle, data, tmp_path / "some", "--index", "codes") == 2
    message = "got none named; allowed --bits 16, --bits 32"
    assert message in capsys.readouterr().err
    file.write_bytes(b"nothing")
    assert retrieve(bundle, data, tmp_path / "no", "--index", "codes", "--bits", 16) == 2
    assert "holds no codes, got" in capsys.readouterr().err
    # Of a changed bundle there are none.
    older(bundle)
    assert retrieve(bundle, data, tmp_path / "no", "--index", "codes", "--bits", 32) == 2
    assert "there are no codes of 32 bits of" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.encoded")) + list(tmp_path.glob("*.partial"))


def test_two_may_fit_the_same_codes(trained, bundle, tmp_path, monkeypatch):
    def encode_and_be_overtaken(*arguments):
        store = encode_for_scoring(*arguments)
        monkeypatch.setattr("recsys.retrieval.coding.encode_for_scoring", encode_for_scoring)
        assert fit_codes(bundle, trained / "data") == 0
        return store

    monkeypatch.setattr("recsys.retrieval.coding.encode_for_scoring", encode_and_be_overtaken)
    assert fit_codes(bundle, trained / "data") == 0
    [file] = tmp_path.glob("b.codes-*")
    assert file.suffix == ".safetensors"


BITS = "--bits: is no length of a code, got {}; allowed multiples of 16 from 16 to 288"


@pytest.mark.parametrize("bits", [0, -16, 8, 24, 304])
def test_bits_that_no_code_has(bits):
    with pytest.raises(RunConfigError, match=BITS.format(bits)):
        check_bits(bits, width=9)
    check_bits(288, width=9)


def test_wrong_bits_leave_nothing(trained, bundle, tmp_path, capsys):
    assert fit_codes(bundle, trained / "data", "--bits", 24) == 2
    assert BITS.format(24) in capsys.readouterr().err
    options = ("--out", tmp_path / "out", "--bits", 16, 24)
    assert recsys_command("compare-vectors", bundle, trained / "data", *options) == 2
    assert BITS.format(24) in capsys.readouterr().err
    options = ("--out", tmp_path / "out", "--max-users", 0)
    assert recsys_command("compare-vectors", bundle, trained / "data", *options) == 2
    assert "--max-users: is no number of users, got 0; allowed 1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_sixteenth_of_the_bits():
    assert [default_bits(width) for width in (1, 8, 9, 16, 64, 65, 128)] == [
        16, 16, 16, 32, 128, 128, 256,
    ]  # fmt: skip


@pytest.mark.parametrize("num_users", [1, 2, 5, 39, 7000, 100_000])
def test_users_to_measure_on_are_others(num_users):
    fitted, measured = split_users(num_users)
    assert len(measured) == max(1, min(1000, num_users // 6))
    assert len(fitted) == max(1, min(20_000, num_users - len(measured)))
    assert {*fitted, *measured} <= {*range(num_users)}
    assert num_users == 1 or not {*fitted} & {*measured}


@pytest.mark.parametrize("name", NAMES)
def test_a_comparison_is_that_of_loops(trained, tmp_path, capsys, name):
    pytest.importorskip("faiss")
    bundle = shutil.copytree(trained / "bundles" / name, tmp_path / "b")
    out = tmp_path / "out"
    options = ("--out", out, "--bits", 16)
    assert recsys_command("compare-vectors", bundle, trained / "data", *options) == 0
    printed, said = capsys.readouterr()
    table = pl.read_csv(out / "results.csv")
    names = ["fp32", "fp16", "int8", "first 4", "first 2", "codes 16", "ivf", "hnsw", "pq"]
    assert table["vectors"].to_list() == names
    begun = ["fitting codes of 16 bits", "exact lists", *(f"lists by {form}" for form in names)]
    assert [line for line in said.splitlines() if line.endswith(" ...")] == [
        f"{what} ..." for what in begun
    ]
    assert {path.name for path in out.iterdir()} == {"results.csv", "results.png"}
    assert (out / "results.png").stat().st_size > 10_000
    width = 8 + (name == "BERT4Rec")
    sizes = [4 * width, 2 * width, width + 4, 4 * (width - 4), 4 * (width - 6), 2]
    assert table["bytes"].to_list()[:6] == sizes
    before = cut_data(trained / "data", tmp_path / "before")
    assert retrieve(bundle, before, tmp_path / "lists", "--vectors") == 0
    users, items, of_users, of_items = vectors(tmp_path / "lists")
    whole = histories(trained / "data")
    asked = [row for row, user in enumerate(users) if len(whole[user]) > 1]
    assert f"of {len(asked)} users, each asked for their last item" in printed
    for form, cut in (("fp32", width), ("first 4", 4), ("first 2", 2)):
        scores = of_users @ of_items.T
        if form != "fp32":
            scores = first_numbers(of_users, cut) @ first_numbers(of_items, cut).T
        gains, hits = [], []
        for row in asked:
            *seen, target = whole[users[row]]
            left = [p for p, item in enumerate(items) if item == target or item not in seen]
            ranked = [items[p] for p in sorted(left, key=lambda p, r=row, s=scores: -s[r, p])]
            rank = ranked.index(target)
            gains.append(1 / np.log2(rank + 2) if rank < 10 else 0)
            hits.append(rank < 100)
        [found] = table.filter(vectors=form).to_dicts()
        assert found["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)
        assert found["hr@100"] == pytest.approx(np.mean(hits))
        assert found["recall@100"] == found["rescored recall@100"] == 1  # there are but 30 items
        line = f"| {form} | {found['bytes']:.4g} | 1.0000 | {found['ndcg@10']:.4f} |"
        assert line in printed
    again = recsys_command("compare-vectors", bundle, trained / "data", *options)
    assert again == 2
    assert "--out: exists already" in capsys.readouterr().err


def cut_data(data, folder):
    """The data without the last event of each user."""
    shutil.copytree(data, folder)
    events = pl.read_parquet(data / "events.parquet").with_row_index("row")
    order = events.sort("timestamp", maintain_order=True)
    last = order.group_by("user_id").agg(pl.col("row").last(), pl.len()).filter(pl.col("len") > 1)
    kept = events.filter(~pl.col("row").is_in(last["row"].implode())).drop("row")
    kept.write_parquet(folder / "events.parquet")
    return folder


def test_a_comparison_without_trained_widths_or_faiss(
    trained, bundle, tmp_path, monkeypatch, capsys
):
    older(bundle)
    monkeypatch.setattr("recsys.retrieval.forms.find_spec", lambda name: None)
    out = tmp_path / "out"
    options = ("--out", out, "--bits", 32, 16, 16, "--max-users", 7)
    assert recsys_command("compare-vectors", bundle, trained / "data", *options) == 0
    assert "of 7 users, each asked for their last item" in capsys.readouterr().out
    names = pl.read_csv(out / "results.csv")["vectors"].to_list()
    assert names == [
        *("fp32", "fp16", "int8"),
        *(f"first {width}, untrained" for width in (4, 2, 1)),
        *("codes 32", "codes 16"),
    ]


def test_nobody_to_ask(trained, bundle, tmp_path, capsys):
    folder = shutil.copytree(trained / "data", tmp_path / "data")
    events = pl.read_parquet(folder / "events.parquet").unique("user_id", maintain_order=True)
    events.write_parquet(folder / "events.parquet")
    out = tmp_path / "out"
    assert recsys_command("compare-vectors", bundle, folder, "--out", out, "--bits", 16) == 2
    assert "DATA: has nobody to ask, got no user of two events" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_cannot_be_written(trained, bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recsys.retrieval.codes.os.access", lambda path, mode: path != tmp_path)
    assert fit_codes(bundle, trained / "data") == 2
    assert "cannot be written, got a folder without that right" in capsys.readouterr().err
    options = ("--out", tmp_path / "out")
    assert recsys_command("compare-vectors", bundle, trained / "data", *options) == 2
    assert "cannot be written, got a folder without that right" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
