"""Parts scored by several processes of one machine, given out in order."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from features.errors import OutputError, RecsysError
from recsys.scoring.job import Job
from recsys.scoring.plan import Plan

_MAX_DEATHS = 2


def threads_of_each(num_workers: int) -> int:
    """Threads of each worker: those of OMP_NUM_THREADS, else an equal share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return max(1, len(os.sched_getaffinity(0)) // num_workers)


def score_in_processes(job: Job, plan: Plan, parts: list[int]) -> Iterator[int]:
    """Score parts and write them; gives each when it is finished.

    The part of a worker that dies is scored by another. A mistake ends the work when the parts
    that have been begun are finished.

    Args:
        job: What to score.
        plan: Of the output, which has been begun.
        parts: Those to score.

    Raises:
        OutputError: a part cannot be written, or workers died.
        RecsysError: any other mistake of a part.
    """
    crew = _Crew(job, plan, parts)
    try:
        yield from crew.finished()
    finally:
        crew.dismiss()


class _Crew:
    """The workers, and who does what."""

    def __init__(self, job: Job, plan: Plan, parts: list[int]) -> None:
        self._todo, self._failures = deque(parts), list[Exception]()
        self._deaths: Counter[int] = Counter()
        count = min(job.num_workers, len(parts))
        with _environment(threads_of_each(job.num_workers)):
            started = [_start(job, plan) for _ in range(count)]
        self._processes: dict[Connection, BaseProcess] = dict(started)
        self._busy: dict[Connection, int] = {}
        self._idle = list(self._processes)

    def finished(self) -> Iterator[int]:
        self._hand_out()
        while self._busy:
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection), "nothing else was waited for"
                part = self._busy.pop(ready)
                try:
                    answer = ready.recv()
                except (EOFError, ConnectionResetError):
                    self._mourn(ready, part)
                    continue
                self._idle.append(ready)
                if answer is None:
                    yield part
                else:
                    self._failures.append(answer)
            self._hand_out()
        mistakes = [m for e in self._failures if isinstance(e, RecsysError) for m in e.mistakes]
        for failure in self._failures:
            if not isinstance(failure, RecsysError):
                raise failure
        if mistakes:
            raise type(self._failures[0])(mistakes)
        if self._todo:
            raise OutputError(
                f"--workers: all workers died, got {len(self._todo)} parts that are not scored; "
                f"run again: parts that are there are kept"
            )

    def dismiss(self) -> None:
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join()

    def _hand_out(self) -> None:
        while self._idle and self._todo and not self._failures:
            connection = self._idle.pop()
            part = self._todo.popleft()
            self._busy[connection] = part
            try:
                connection.send(part)
            except (BrokenPipeError, ConnectionResetError):
                continue  # it is dead, which waiting for it will tell

    def _mourn(self, connection: Connection, part: int) -> None:
        process = self._processes[connection]
        process.join()
        self._deaths[part] += 1
        if self._deaths[part] < _MAX_DEATHS:
            self._todo.appendleft(part)
            return
        remedy = (
            "often for want of memory; set OMP_NUM_THREADS=1, or give fewer --workers,"
            if process.exitcode == -signal.SIGKILL
            else "look above for what it said; a script of its own needs `if __name__ == "
            '"__main__":` around its calls; mend that,'
        )
        self._failures.append(
            OutputError(
                f"part {part}: {_MAX_DEATHS} workers died with it, got exit code "
                f"{process.exitcode}, {remedy} and run again: parts that are there are kept"
            )
        )


def _start(job: Job, plan: Plan) -> tuple[Connection, BaseProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, job, plan), daemon=True)
    process.start()
    assert isinstance(ours, Connection), "no pipe of Windows"
    theirs.close()  # so that its death ends the pipe
    return ours, process


def _serve(connection: Connection, job: Job, plan: Plan) -> None:
    """Score parts until the pipe ends, as it does when the parent dies."""
    from recsys.bundle import read_bundle
    from recsys.scoring.output import OutputFolder
    from recsys.scoring.parts import open_parts
    from recsys.scoring.reading import EventReader

    logging.getLogger("torch.fx").setLevel(logging.ERROR)  # as the command does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    output, parts = OutputFolder(job.out, plan), None
    try:
        while True:
            number = connection.recv()
            try:
                if parts is None:
                    reader = EventReader(read_bundle(job.bundle)[1], plan)
                    parts = open_parts(job, reader, output, num_threads=threads_of_each(1))
                output.write(number, parts.score(number))
                connection.send(None)
            except Exception as error:  # travels to the parent, which raises it
                error.add_note("".join(traceback.format_exception(error)))
                connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


@contextmanager
def _environment(num_threads: int) -> Iterator[None]:
    """What processes that start now read when they load their libraries."""
    ours = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")}
    os.environ.update(dict.fromkeys(ours, str(num_threads)))
    try:
        yield
    finally:
        for name, value in ours.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
