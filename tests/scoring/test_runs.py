"""Runs that are cut off, shared out or refused give the bytes of one that was not, or nothing."""

import errno
import json
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import polars as pl
import pytest
from scoring.jobs import content, each_kind, job_of, of_events, with_histories

from features.errors import DataError, OutputError, RunConfigError
from recsys.scoring import whole
from recsys.scoring.parts import EventParts
from recsys.scoring.plan import Settings
from recsys.scoring.run import score


@pytest.fixture
def own_run(whole_run, tmp_path):
    """A copy of it to spoil."""
    job, files = whole_run
    return replace(job, out=shutil.copytree(job.out, tmp_path / "out")), files


@each_kind
def test_parts_are_those_of_one_run_over_all(whole_run, tmp_path):
    job, files = whole_run
    parts = sorted(name for name in files if name.startswith("part-"))
    assert len(parts) > 5
    complete = json.loads(files["complete.json"])
    assert complete["files"] == {name: len(files[name]) for name in parts}
    assert not (job.out / ".work").exists()
    one = replace(job, out=tmp_path / "one", settings=replace(job.settings, rows_per_part=10**6))
    one = replace(one, settings=replace(one.settings, users_per_part=10**6))
    summary = score(one)
    scores = pl.read_parquet(job.out / "*.parquet")
    at_once = pl.read_parquet(one.out / "*.parquet")
    assert len(list(one.out.glob("*.parquet"))) == 1
    assert scores.drop(pl.selectors.float()).equals(at_once.drop(pl.selectors.float()))
    for name in at_once.select(pl.selectors.float()).columns:
        np.testing.assert_allclose(scores[name], at_once[name], atol=1e-5)
    assert summary["rows"] == json.loads(files["summary.json"])["rows"]
    assert summary["rows"]["read"] == 500
    assert summary["rows"]["written"] == len(scores)


def kill_at_random_moments(job, *, kills, seed):
    """Begin the job again and again, kill it, and let it end at last."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["recsys.scoring.run", "recsys.scoring.parts"])
    warm_up = context.Process(target=score, args=(replace(job, out=job.out / "../warm_up"),))
    warm_up.start()
    warm_up.join()
    process = context.Process(target=score, args=(replace(job, out=job.out / "../timed"),))
    started = time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 0
    seconds, random = time.monotonic() - started, np.random.default_rng(seed)
    cut_off = 0
    while cut_off < kills:
        process = context.Process(target=score, args=(job,))
        process.start()
        process.join(random.uniform(0.2, 1) * seconds)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            cut_off += 1
        else:  # it was done before; what is left to do then shows nothing
            assert process.exitcode == 0
            shutil.rmtree(job.out)
            seconds *= 0.8
    assert score(job) is not None


@with_histories
def test_a_run_that_is_killed_ends_as_if_it_were_not(whole_run, tmp_path):
    job, files = whole_run
    job = replace(job, out=tmp_path / "killed")
    kill_at_random_moments(job, kills=2, seed=0)
    assert content(job.out) == files


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("workers_of", [1, 2])
def test_a_run_that_is_killed_ten_times(whole_run, tmp_path, workers_of):
    job, files = whole_run
    job = replace(job, out=tmp_path / "killed", num_workers=workers_of)
    kill_at_random_moments(job, kills=10, seed=workers_of)
    assert content(job.out) == files


@with_histories
def test_a_run_that_stops_after_each_part_computes_none_twice(whole_run, tmp_path, monkeypatch):
    job, files = whole_run
    job, written, replaced = replace(job, out=tmp_path / "stopped"), [], os.replace

    def stop_after(source, target):
        replaced(source, target)
        if "part-" in target.name:
            written.append(target.name)
            raise KeyboardInterrupt

    monkeypatch.setattr(whole.os, "replace", stop_after)
    while True:
        try:
            assert score(job) is not None
            break
        except KeyboardInterrupt:
            assert not (job.out / "complete.json").exists()
    assert written == sorted(name for name in files if name.startswith("part-"))
    assert content(job.out) == files


@each_kind
def test_a_folder_may_have_brackets_in_its_name(whole_run, tmp_path):
    job, files = whole_run
    job = replace(job, out=tmp_path / "out[5]")
    assert score(job) is not None
    assert content(job.out) == files


@each_kind
def test_shares_make_one_output(whole_run, tmp_path):
    job, files = whole_run
    job = replace(job, out=tmp_path / "shared")
    assert score(replace(job, share=(1, 3))) is None
    assert score(replace(job, share=(2, 3))) is None
    assert not (job.out / "complete.json").exists()
    assert score(replace(job, share=(2, 3))) is None  # again: there is nothing to do
    assert score(replace(job, share=(0, 3))) is not None
    assert content(job.out) == files


# ---------------------------------------------------------------------------------- refusals
@of_events
def test_an_output_of_something_else_is_refused(whole_run, bundles, own_log, own_run):
    job, files = own_run
    settings = replace(job.settings, rows_per_part=91)
    for other, says in (
        (
            replace(job, settings=settings),
            "of another setting rows_per_part, got 91; begun with 90",
        ),
        (replace(job, bundle=bundles.histories), "of another bundle, got "),
        (replace(job, out=own_log), "exists already, got"),
    ):
        with pytest.raises(RunConfigError, match=f"--out: .*{says}"):
            score(other)
    with pytest.raises(RunConfigError, match=r"a.parquet has another path, got .*; begun with"):
        score(replace(job, data=str(own_log), sources={"events": str(own_log / "log")}))
    assert content(job.out) == files


@each_kind
def test_a_complete_output_is_not_written_again(own_run):
    job, _ = own_run
    before = {f: f.stat().st_mtime_ns for f in job.out.iterdir()}
    assert score(job)["rows"]["read"] == 500
    assert {f: f.stat().st_mtime_ns for f in job.out.iterdir()} == before


def assert_scored_again(part, job, files):
    """Where it is gone."""
    part.unlink()
    assert score(job) is not None
    assert content(job.out) == files


@each_kind
def test_a_part_that_is_gone_since_is_scored_again(own_run):
    job, files = own_run
    assert_scored_again(job.out / "part-00001.parquet", job, files)


@of_events
def test_a_complete_output_whose_files_changed_is_refused(own_run):
    job, files = own_run
    part = job.out / "part-00001.parquet"
    part.write_bytes(files[part.name][:-9])
    with pytest.raises(OutputError, match=r"part-00001.parquet: is not as .* delete it, and run"):
        score(job)
    assert_scored_again(part, job, files)


@of_events
def test_a_part_that_was_damaged_is_not_completed(own_run):
    job, files = own_run
    part = job.out / "part-00002.parquet"
    (job.out / "complete.json").unlink()
    for damage, says in (
        (files[part.name][:-9], "is damaged, got .*; delete it, and run again"),
        (files["part-00001.parquet"], "is of another run; delete it"),
    ):
        part.write_bytes(damage)
        with pytest.raises(OutputError, match=f"part-00002.parquet: {says}"):
            score(job)
        assert not (job.out / "complete.json").exists()
    assert_scored_again(part, job, files)


# ---------------------------------------------------------------------------- disks, bad rows
@each_kind
def test_a_full_disk_leaves_no_half_file_and_the_run_goes_on(
    whole_run, tmp_path, monkeypatch, request
):
    job, files = whole_run
    job, flushes, flush = replace(job, out=tmp_path / "full"), [], os.fsync

    def full(descriptor):
        flushes.append(descriptor)
        if len(flushes) > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(whole.os, "fsync", full)
        with pytest.raises(OutputError, match="cannot be written, got No space left on device; "):
            score(job)
    parts = content(job.out)
    assert 0 < sum(name.startswith("part-") for name in parts) < 6
    assert all(parts[n] == files[n] for n in parts if n.startswith("part-"))
    assert "complete.json" not in parts
    assert score(job) is not None
    assert content(job.out) == files


def test_a_limit_of_file_sizes_is_met_by_the_writer_itself(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="x: cannot be written, got File too large"):
            whole.write_whole(tmp_path / "x", bytes(2000), work=tmp_path / "work")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "x").exists()


def spoil(log):
    """Rows 6 and 250 of the log get an item of no price and an hour that is none."""
    file = log / "log" / "c.parquet"
    events, row = pl.read_parquet(file), pl.int_range(pl.len())
    is_bad = (row == 120) | (row == 250)
    events = events.with_columns(
        price=pl.when(row == 120).then(float("nan")).otherwise("price"),
        hour=pl.when(is_bad).then(pl.lit(99, pl.Int8)).otherwise("hour"),
    )
    events.write_parquet(file, row_group_size=70)


@pytest.mark.parametrize("kind", ["plain", "histories"])
def test_rows_that_cannot_be_scored(bundles, own_log, tmp_path, kind):
    clean = job_of(bundles, kind, own_log, tmp_path / "clean")
    spoil(own_log)
    job = replace(clean, out=tmp_path / "out")
    with pytest.raises(DataError) as raised:
        score(job)
    assert [m.split("/")[-1].split(";")[0] for m in raised.value.mistakes] == [
        "c.parquet: features.hour (column 'hour'): id outside 0 ... 23 in 1 rows of part 3, "
        "first in row 120, got 99",
        "c.parquet: features.log_price (column 'price'): null or NaN in 1 rows of part 3, "
        "first in row 120, got nan",
    ]
    assert job.out.exists() == (kind == "plain")  # parts that were finished before
    summary = score(replace(job, rejects=True))
    assert summary["rows"] == {
        "read": 500,
        "left_out": 0,
        "rejected": 2,
        "scored": 498,
        "written": 498,
    }
    assert summary["warnings"][0] == "2 rows were rejected; see rejects/"
    rejects = pl.read_parquet(job.out / "rejects" / "*.parquet")
    assert rejects["_row_in_file"].to_list() == [120, 250]
    assert rejects["_file"].str.ends_with("c.parquet").all()
    assert "got 99; features.log_price" in rejects["_reason"][0]
    assert rejects["hour"].to_list() == [99, 99]
    # The rest is scored as if the others had never been.
    events = pl.read_parquet(own_log / "log" / "c.parquet")
    events = events.filter(~pl.int_range(pl.len()).is_in([120, 250]))
    events.write_parquet(own_log / "log" / "c.parquet")
    without = replace(clean, settings=replace(clean.settings, rows_per_part=1000))
    score(without)
    expected = pl.read_parquet(without.out / "*.parquet")
    found = pl.read_parquet(job.out / "*.parquet")
    assert found.drop("score_click").equals(expected.drop("score_click"))
    np.testing.assert_allclose(found["score_click"], expected["score_click"], atol=1e-6)


def test_times_are_repeated_as_they_are_in_the_data(bundles, own_log, tmp_path):
    spoil(own_log)
    for file in (own_log / "log").iterdir():
        time = pl.col("timestamp").dt.replace_time_zone("Asia/Tokyo").dt.cast_time_unit("ns")
        pl.read_parquet(file).with_columns(time).write_parquet(file)
    job = job_of(bundles, "histories", own_log, tmp_path / "out", rejects=True)
    score(replace(job, settings=Settings(key_columns=("timestamp",))))
    times = pl.concat(
        pl.read_parquet(file)["timestamp"] for file in sorted((own_log / "log").iterdir())
    )
    rejected = [130 + 120, 130 + 250]
    expected = times.to_frame().filter(~pl.int_range(pl.len()).is_in(rejected))["timestamp"]
    assert pl.read_parquet(job.out / "*.parquet")["timestamp"].equals(expected, check_dtypes=True)
    rejects = pl.read_parquet(job.out / "rejects" / "*.parquet")
    assert rejects["timestamp"].equals(times[rejected], check_dtypes=True)


@pytest.mark.parametrize("kind", ["histories", "sequence"])
def test_users_that_do_nothing_that_can_be_scored(bundles, own_log, tmp_path, kind):
    for name in "abc":
        file = own_log / "log" / f"{name}.parquet"
        pl.read_parquet(file).with_columns(user_id=pl.lit(None, pl.String)).write_parquet(file)
    job = job_of(bundles, kind, own_log, tmp_path / "out", rejects=True)
    rows = score(job)["rows"]
    assert (rows["read"], rows["rejected"], rows["written"]) == (500, 500, 0)
    assert len(pl.read_parquet(job.out / "rejects" / "*.parquet")) == 500
    assert pl.read_parquet(job.out / "part-*.parquet").is_empty()


def test_scores_that_are_no_numbers_are_said(bundles, own_log, tmp_path, monkeypatch):
    scores_of = EventParts._scores
    monkeypatch.setattr(EventParts, "_scores", lambda *a: scores_of(*a) * np.float32("nan"))
    summary = score(job_of(bundles, "plain", own_log, tmp_path / "out"))
    assert "score_click: 500 scores are no numbers" in summary["warnings"]
