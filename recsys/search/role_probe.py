"""How strongly attention and representation pull at each id, and whether they pull apart.

In every batch, each id has a gradient g_A through attention and g_R through representation. Over
the batches of a probe

    norm   = mean of ||g||                                        over the batches that have the id
    cosine = sum <g_A, g_R> / sqrt(sum ||g_A||^2 * sum ||g_R||^2)

so that neither batches of small gradients nor single batches decide. Gradients of single batches,
not of all rows together: at a minimum those two cancel, whatever the tables.

Source: Feng et al., DARE (2025), https://arxiv.org/abs/2410.02604, section 2 and its code.
Differs from the paper: it does not say how batches are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import polars as pl
import torch

from models.history_ranker import HistoryRanker
from recsys.data.module import RecsysData
from recsys.nn.history_columns import HistoryColumns
from recsys.search.history_run import HistoryRun
from recsys.search.role_copies import RoleGradient, copied, read_copies, role_gradients
from recsys.tables.after_steps import after_steps
from recsys.trained import untrained_task
from recsys.training.ranking import RankingTask
from recsys.types import Batch

_WINDOWS = 4


@dataclass(frozen=True)
class Probe:
    """What the batches of a window tell.

    Attributes:
        run: Name of the run.
        steps: Which of its steps: `trained`, or `1-50`.
        by_column: A row per id: id, batches, norm_attention, norm_representation, ratio, cosine;
            null where there is none.
    """

    run: str
    steps: str
    by_column: Mapping[str, pl.DataFrame]


class IdSums:
    """Adds up what the batches say of each id."""

    def __init__(self) -> None:
        self._sums: dict[str, pl.DataFrame] = {}

    def add(self, gradients: Mapping[str, RoleGradient]) -> None:
        """Take a batch in."""
        for name, gradient in gradients.items():
            parts = [self._sums[name]] if name in self._sums else []
            parts.append(_sums(gradient))
            self._sums[name] = pl.concat(parts).group_by("id").sum()

    def by_column(self) -> dict[str, pl.DataFrame]:
        """Norms, ratio and cosine of each id."""
        return {name: _measures(sums) for name, sums in self._sums.items()}


def probe_trained(run: HistoryRun, *, num_batches: int) -> Probe:
    """Measure at the trained weights, on shuffled training batches.

    Args:
        run: Its ranker reads copies from now on.
        num_batches: At most.
    """
    task, sums = run.task.train(), IdSums()
    columns = read_copies(run.ranker)
    for batch in islice(run.data.train_dataloader(), num_batches):
        sums.add(_backward(task, batch, columns))
        task.zero_grad()
    return Probe(run.name, "trained", sums.by_column())


def probe_training(run: HistoryRun, *, num_steps: int) -> list[Probe]:
    """Train new weights as the run did, and measure every step; four probes, one after another.

    The weights begin as the run's did, in full precision and in one process; tables that the run
    shards are trained by its dense optimiser.

    Args:
        run: Says what to train, on what and how.
        num_steps: To train.
    """
    task = untrained_task(run.checkpoint, run.manifest).train()
    assert isinstance(task, RankingTask)
    step = _stepping(task)
    assert isinstance(task.ranker, HistoryRanker)
    columns = read_copies(task.ranker)
    batches, probes = _endless(run.data), []
    for window in np.array_split(np.arange(num_steps), min(_WINDOWS, num_steps)):
        sums = IdSums()
        for number in window.tolist():
            sums.add(_backward(task, next(batches), columns))
            step(number)
        probes.append(Probe(run.name, f"{window[0] + 1}-{window[-1] + 1}", sums.by_column()))
    return probes


def _backward(task: RankingTask, batch: Batch, columns: HistoryColumns) -> dict[str, RoleGradient]:
    """Gradients of the training loss; those of the weights are left where an optimiser looks."""
    copies = copied(task.embedder(batch), columns)
    task.with_penalty(torch.stack(task.losses(copies, batch)).sum()).backward()
    return role_gradients(copies, batch, columns, task.embedder)


def _stepping(task: RankingTask) -> Callable[[int], None]:
    """Optimiser, scheduler and schemes, as Lightning calls them after each backward pass.

    They are given the number of steps before.
    """
    configured = task.configure_optimizers()
    has_schedule = isinstance(configured, dict)
    optimizer = configured["optimizer"] if has_schedule else configured
    of_schemes = after_steps(task.embedder)

    def step(number: int) -> None:
        optimizer.step()
        optimizer.zero_grad()
        for after_step in of_schemes:
            after_step(number)
        if has_schedule:
            configured["lr_scheduler"]["scheduler"].step()

    return step


def _endless(data: RecsysData) -> Iterator[Batch]:
    loader = data.train_dataloader()
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def _sums(gradient: RoleGradient) -> pl.DataFrame:
    """Of one batch, a row per id."""
    attention_UD, representation_UD = (
        g.double() for g in (gradient.attention_UD, gradient.representation_UD)
    )
    is_one_width = attention_UD.shape == representation_UD.shape
    products_U = (attention_UD * representation_UD).sum(1) if is_one_width else None
    columns = {
        "id": gradient.ids_U,
        "attention": attention_UD.norm(dim=1),
        "representation": representation_UD.norm(dim=1),
        "attention_squares": attention_UD.square().sum(1),
        "representation_squares": representation_UD.square().sum(1),
    }
    frame = pl.DataFrame({name: values.numpy() for name, values in columns.items()})
    products = None if products_U is None else pl.Series(products_U.numpy())
    return frame.with_columns(pl.lit(1).alias("batches"), pl.lit(products).alias("products"))


def _measures(sums: pl.DataFrame) -> pl.DataFrame:
    """Of sums, a row per id, in rising order."""
    squares = (pl.col("attention_squares") * pl.col("representation_squares")).sqrt()
    ratio = pl.col("representation") / pl.col("attention")
    return sums.sort("id").select(
        "id",
        "batches",
        norm_attention=pl.col("attention") / pl.col("batches"),
        norm_representation=pl.col("representation") / pl.col("batches"),
        ratio=pl.when(pl.col("attention") > 0).then(ratio),
        cosine=pl.when(squares > 0).then(pl.col("products") / squares),
    )
