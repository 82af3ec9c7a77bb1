"""What a person types, and what the command answers."""

import json

import polars as pl
import pytest
import torch
from commands import recsys_command

from recsys.scoring.progress import Progress
from recsys.scoring.threads import one_thread_each
from recsys.scoring.workers import threads_of_each


def run(bundles, kind, log, out, *arguments):
    paths = (bundles.of(kind), log, "--source", f"events={log}/log", "--out", out)
    return recsys_command("score", *paths, *arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("plain", ["--part", "3/3"], "--part: is no share, got '3/3'; allowed 0/3 ... 2/3; jobs"),
        ("plain", ["--part", "x"], "--part: is no share, got 'x'; allowed 0/4"),
        ("plain", ["--workers", "0"], "--workers: is no number of processes, got 0; allowed 1 and"),
        ("plain", ["--part-rows", "0"], "--part-rows: is no number of rows, got 0"),
        ("plain", ["--source", "evnts=x"], "--source: no such source, got 'evnts'; allowed events"),
        ("plain", ["--source", "items"], "--source: is no NAME=PATH, or names a source again"),
        ("plain", ["--source", "events=x"], "--source: is no NAME=PATH, or names a source again"),
        (
            "plain",
            ["--columns", "_row"],
            "--columns: names that begin with '_' are taken, got '_row'",
        ),
        ("plain", ["-k", "3"], "-k: a ranking bundle scores each event, got 3; leave it out"),
        ("sequence", ["--columns", "click"], "--columns: a sequence bundle gives users and items"),
    ],
)
def test_arguments_that_are_refused(bundles, log, tmp_path, capsys, kind, arguments, says):
    assert run(bundles, kind, log, tmp_path / "out", *arguments) == 2
    assert capsys.readouterr().err.startswith(says)
    assert not (tmp_path / "out").exists()


def test_a_data_file_or_glob_is_the_log_itself(bundles, log, tmp_path, capsys):
    items = f"items={log}/items.parquet"
    for number, data in enumerate((f"{log}/log/*.parquet", f"{log}/log/c.parquet")):
        paths = (bundles.plain, data, "--source", items, "--out", tmp_path / str(number))
        assert recsys_command("score", *paths) == 0
        rows = 370 if number else 500
        assert f"scored {rows} rows into" in capsys.readouterr().out
    both = ("--source", f"events={log}/log", "--source", items)
    assert recsys_command("score", bundles.plain, data, *both, "--out", tmp_path / "both") == 2
    assert "--source: the events are named twice, got" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["plain", "histories", "sequence"])
def test_a_dry_run_writes_nothing_and_shows_scores(bundles, log, tmp_path, capsys, kind):
    before = sorted(tmp_path.rglob("*"))
    assert run(bundles, kind, log, tmp_path / "out", "--dry-run", "--part-rows", "100") == 0
    printed = capsys.readouterr().out
    num_bytes = sum(f.stat().st_size for f in (log / "log").iterdir())
    assert f"events: 3 files, 500 rows, {num_bytes:,} bytes: " in printed
    assert "score" in printed.split("parts: ")[1]
    assert ("parts: 7 of up to 100 rows, 7 to score" in printed) == (kind != "sequence")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_says_that_its_rows_have_no_users(bundles, own_log, tmp_path, capsys):
    for file in (own_log / "log").iterdir():
        nobody = pl.lit(None, pl.String).alias("user_id")
        pl.read_parquet(file).with_columns(nobody).write_parquet(file)
    reject = ("--dry-run", "--on-error", "reject")
    assert run(bundles, "sequence", own_log, tmp_path / "out", *reject) == 0
    assert "nothing to score in the first 130 rows; the others" in capsys.readouterr().out


def test_ranks_of_torchrun_are_shares(bundles, log, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, says in (
        (1, "share 1/2 is done; others have parts to score"),
        (0, "scored 500 rows"),
    ):
        monkeypatch.setenv("RANK", str(rank))
        assert run(bundles, "plain", log, tmp_path / "out", "--part-rows", "100") == 0
        assert says in capsys.readouterr().out


def test_scores_say_which_bundle_they_are_of(bundles, log, tmp_path):
    assert run(bundles, "plain", log, tmp_path / "out", "--columns", "user_id") == 0
    metadata = pl.read_parquet_metadata(tmp_path / "out" / "part-00000.parquet")
    bundle = json.loads((tmp_path / "out" / "complete.json").read_text())["bundle"]
    assert metadata["recsys.bundle"] == bundle
    assert json.loads(metadata["recsys.counts"])["scored"] == 500


def test_half_precision_is_near_and_another_output(bundles, log, tmp_path, capsys):
    assert run(bundles, "plain", log, tmp_path / "a") == 0
    assert run(bundles, "plain", log, tmp_path / "b", "--precision", "bf16") == 0
    full, half = (pl.read_parquet(tmp_path / n / "*.parquet")["score_click"] for n in "ab")
    assert half.dtype == pl.Float32
    assert (full - half).abs().max() < 0.02
    assert run(bundles, "plain", log, tmp_path / "a", "--precision", "bf16") == 2
    assert "of another setting precision, got bf16; begun with float32" in capsys.readouterr().err


def test_progress_says_how_long_it_takes():
    progress = Progress(1000, 4, noun="rows")
    progress.add(250)
    assert progress.line(50.0) == ("part 1 of 4: 250 of 1,000 rows, 5 a second, 2 min 30 s left")


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(n) for n in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(8) == 3
    before = torch.get_num_threads()
    with one_thread_each():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
