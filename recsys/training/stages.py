"""Tables that are trained in stages, as a single training meets them."""

from __future__ import annotations

from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from features.errors import RunConfigError
from features.spec import FeatureSet
from features.table_spec import StagedTable
from recsys.tables.schemes import staged_schemes
from recsys.tables.staged import SearchedScheme, StagedScheme, have_finished
from recsys.training.task import Task


def check_stages(
    feature_set: FeatureSet, *, warm_up: bool, reads: Literal["ranking", "sequence"]
) -> None:
    """Refuse to train tables once that need more, and a first stage of tables that do not.

    Raises:
        RunConfigError: with the tables.
    """
    staged = {n: t for n, t in feature_set.tables.items() if isinstance(t, StagedTable)}
    if staged and not warm_up:
        raise RunConfigError(
            f"tables.{name}: a table of this scheme is trained in stages, got scheme "
            f"{table.scheme} in a lone training; do `python -m recsys search -c EXPERIMENT "
            f"--out FOLDER`"
            for name, table in staged.items()
        )
    searched = [
        n for n, t in staged.items() if issubclass(staged_schemes()[type(t)], SearchedScheme)
    ]
    if searched and reads == "sequence":
        raise RunConfigError(
            f"tables.{searched[0]}: widths are searched by the AUC of a ranker, got scheme "
            f"{staged[searched[0]].scheme} in a sequence task; take another scheme"
        )
    if warm_up and not staged:
        raise RunConfigError(
            "run.warm_up: is for tables that are trained in stages, got none in the feature file; "
            "leave it out"
        )


def needs_its_end(task: Task) -> bool:
    """Whether a warm-up must go on however its validations turn out: its end is what counts."""
    schemes = task.embedder.schemes.values()
    return any(isinstance(scheme, StagedScheme) and scheme.takes == "last" for scheme in schemes)


class StopWhenFinished(Callback):
    """Ends a warm-up as soon as the tables trained in stages have what they need."""

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """See after every step."""
        assert isinstance(pl_module, Task)
        if have_finished(pl_module.embedder.schemes.values()):
            trainer.should_stop = True
