"""Apart from the other tests of the store: the processes import this file, so it needs no torch."""

import multiprocessing

import polars as pl

from features.load import load_feature_set
from recsys.data import store
from recsys.data.store import prepare

FEATURES = """
sources: {events: events.parquet}
entity: {user: user, item: item, time: time}
label: {name: click}
features: [{name: item, kind: categorical}, {name: past, kind: sequence, of: item, max_length: 3}]
"""


def test_processes_that_prepare_at_once_build_once(tmp_path):
    (tmp_path / "features.yaml").write_text(FEATURES)
    numbers = range(2000)
    log = {"time": numbers, "user": [n % 9 for n in numbers], "item": [n % 7 for n in numbers]}
    pl.DataFrame({**log, "click": [n % 2 for n in numbers]}).write_parquet(
        tmp_path / "events.parquet"
    )
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=prepare_and_tell, args=(tmp_path, answers)) for _ in "abc"]
    for process in processes:
        process.start()
    told = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in told) == [0, 0, 1]
    assert len({path for _, path in told}) == 1


def prepare_and_tell(folder, answers):
    builds, original = [], store.build
    store.build = lambda *args, **options: (builds.append(1), original(*args, **options))[1]
    found = prepare(load_feature_set(folder / "features.yaml"), folder, folder / "store")
    answers.put((len(builds), str(found.path)))
