"""Jobs that write into one folder at the same moment do not disturb each other."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import polars as pl

from recsys.scoring.files import InputFile
from recsys.scoring.output import OutputFolder
from recsys.scoring.plan import Plan, Settings
from recsys.scoring.whole import write_whole


def at_once(write):
    """Call it in two threads, which have one PID as the first processes of two containers have."""
    barrier = Barrier(2)

    def one(number):
        barrier.wait()
        return write(number)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


def test_jobs_that_end_together_complete_one_folder(tmp_path):
    plan = Plan("bundle", Settings(), {"events": (InputFile("/x", 1, 1, (5,)),)})
    for number in range(30):
        out = tmp_path / str(number)
        out.mkdir()
        pl.DataFrame({"a": [1]}).write_parquet(out / "part-00000.parquet")
        at_once(
            lambda _, out=out: OutputFolder(out, plan).complete(1, summary={"rows": {"read": 5}})
        )
        assert json.loads((out / "summary.json").read_text()) == {"rows": {"read": 5}}
        assert json.loads((out / "complete.json").read_text())["rows"] == {"read": 5}
        assert not (out / ".work").exists()


def test_a_file_that_two_write_is_that_of_one_of_them(tmp_path):
    contents = [bytes([number]) * 1_000_000 for number in range(2)]
    for _ in range(30):
        at_once(lambda number: write_whole(tmp_path / "x", contents[number], work=tmp_path / "w"))
        assert (tmp_path / "x").read_bytes() in contents
        assert not list((tmp_path / "w").iterdir())
