"""Several processes of one job: the same bytes as of one, whoever dies."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from scoring.jobs import content, each_kind, of_events

from features.errors import OutputError
from recsys.scoring import workers
from recsys.scoring.run import score


@of_events
def test_workers_make_the_same_output_and_one_that_dies_is_replaced(whole_run, tmp_path, bundles):
    job, files = whole_run
    job = replace(job, out=tmp_path / "workers", num_workers=2)
    started, begun = workers._start, []

    def start_and_kill_the_first(*arguments):
        connection, process = started(*arguments)
        if not begun:
            os.kill(process.pid, signal.SIGKILL)
        begun.append(process)
        return connection, process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_start", start_and_kill_the_first)
        assert score(job) is not None
    assert len(begun) == 2
    assert content(job.out) == files


@each_kind
def test_workers_load_torch_and_their_parent_does_not(whole_run, tmp_path):
    job, files = whole_run
    job = replace(job, out=tmp_path / "workers", num_workers=2)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    code = (
        "import pathlib, pickle, sys\n"
        "from recsys.scoring.run import score\n"
        "score(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))\n"
        "assert not {'torch', 'torchrec', 'lightning'} & set(sys.modules), 'heavy'"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "job"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert content(job.out) == files


@of_events
def test_when_all_workers_die_what_is_there_is_kept(whole_run, tmp_path):
    job, _ = whole_run
    started = workers._start

    def start_and_kill(*arguments):
        connection, process = started(*arguments)
        os.kill(process.pid, signal.SIGKILL)
        return connection, process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_start", start_and_kill)
        with pytest.raises(OutputError, match="--workers: all workers died, got 7 parts that"):
            score(replace(job, out=tmp_path / "dead", num_workers=2))
    assert (tmp_path / "dead" / "plan.json").is_file()
