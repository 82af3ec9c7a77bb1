"""Clocks in the parts of a training step, for `trainer_cost.py`."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure

from recsys.data.loader import EpochReader
from recsys.tables.batch_checks import BatchChecks
from recsys.training.task import Task

FORWARD, BACKWARD, OPTIMIZER = "forward and loss", "backward", "optimiser"
TAKING, LOOKING, LOGGING = "taking a batch", "looking at ids", "logging"
OF_TASK, OF_STRATEGY = "hooks of the task", "hooks of the strategy"
LOOP = "Lightning's own loop"
BESIDE = "making a batch, in a thread beside"
WAITING = "waiting for a batch, by the clock"
_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class Clocks:
    """Processor seconds of each part of a step, without those of parts within it.

    What else the machine does would be in seconds by the clock; only waiting for a batch, which
    takes no processor, is told in those. The loop gets what no other part has, and the time of the
    clocks themselves, a microsecond each.
    """

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = defaultdict(float)
        self._within_s = [0.0]
        self._started_s = 0.0

    def start(self) -> None:
        """Begin anew."""
        self._spent_s.clear()
        self._started_s = time.thread_time()

    def read(self) -> dict[str, float]:
        """Seconds of all parts since the start."""
        total = time.thread_time() - self._started_s
        spent = {part: s for part, s in self._spent_s.items() if part != LOOP}
        in_line = sum(s for part, s in spent.items() if part not in (BESIDE, WAITING))
        return {**spent, LOOP: total - in_line}

    def watch(self, trainer: Trainer, task: Task, *, apart_from: Callback) -> None:
        """Put a clock into each part, for good.

        Args:
            trainer: Is training.
            task: What it trains.
            apart_from: The callback that reads the clocks.
        """
        [optimizer], loggers = trainer.optimizers, trainer._logger_connector
        callbacks = [c for c in trainer.callbacks if c is not apart_from]  # pyright: ignore[reportAttributeAccessIssue]
        places: list[tuple[Any, str, str]] = [
            (Closure, "__call__", LOOP),
            (task, "training_step", FORWARD),
            (task, "backward", BACKWARD),
            (optimizer, "step", OPTIMIZER),
            (optimizer, "zero_grad", OPTIMIZER),
            (BatchChecks, "check", LOOKING),
            (BatchChecks, "check_keyed", LOOKING),
            (task, "on_train_batch_start", OF_TASK),
            (trainer.strategy, "on_train_batch_start", OF_STRATEGY),
            (trainer.strategy, "batch_to_device", OF_STRATEGY),
            (task, "log_loss", LOGGING),
            (loggers, "on_batch_start", LOGGING),
            (loggers, "on_batch_end", LOGGING),
            (loggers, "update_train_step_metrics", LOGGING),
            (trainer.fit_loop.epoch_loop, "_save_loggers_on_train_batch_end", LOGGING),
            *((c, hook, f"callback {type(c).__name__}") for c in callbacks for hook in _HOOKS),
        ]
        for owner, name, part in places:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        fetcher = type(trainer.fit_loop._data_fetcher)
        fetcher.__next__ = self._waited_for(fetcher.__next__)
        EpochReader.batch = self._beside(EpochReader.batch)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._within_s.append(0.0)
            started_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.thread_time() - started_s
                self._spent_s[part] += took_s - self._within_s.pop()
                self._within_s[-1] += took_s

        return timed

    def _waited_for(self, function: Callable[..., Any]) -> Callable[..., Any]:
        taking = self._timed(function, TAKING)

        def waited_for(*args: Any) -> Any:
            clock_s, processor_s = time.perf_counter(), time.thread_time()
            try:
                return taking(*args)
            finally:
                busy_s = time.thread_time() - processor_s
                self._spent_s[WAITING] += time.perf_counter() - clock_s - busy_s

        return waited_for

    def _beside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def beside(*args: Any) -> Any:
            started_s = time.thread_time()
            made = function(*args)
            self._spent_s[BESIDE] += time.thread_time() - started_s
            return made

        return beside
