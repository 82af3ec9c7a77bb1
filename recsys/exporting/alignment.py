"""A model's vectors turned into the space of an older bundle's, so that both work together.

C items of both · D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from features.errors import DataError, RunConfigError
from recsys.bundle import bundle_id
from recsys.bundle_items import common_items, items_of_bundle
from recsys.item_names import item_names
from recsys.training.sequence import SequenceTask
from recsys.training.task import Task

OPTION = "--compatible-with"


@dataclass(frozen=True)
class Alignment:
    """What vectors are multiplied with; the product of a user's and an item's stays what it was.

    Attributes:
        users_DD: Of users: a rotation, divided by the scale.
        items_DD: Of items: the same rotation, times the scale.
        scale: Makes items as long as the older ones, by their mean square.
        num_items: Items that it was fitted on.
        num_older_items: Items of the older bundle.
        cosine: Mean of these items' cosines with the older vectors, after it.
        bundle: Id of the older bundle.
    """

    users_DD: Tensor
    items_DD: Tensor
    scale: float
    num_items: int
    num_older_items: int
    cosine: float
    bundle: str

    def to_content(self) -> Mapping[str, Any]:
        """For the manifest."""
        names = ("bundle", "num_items", "num_older_items", "scale", "cosine")
        return {name: getattr(self, name) for name in names}


def rotation_onto(new_CD: Tensor, old_CD: Tensor) -> Tensor:
    """The orthogonal R (D, D) with the least sum of squares of new R - old.

    Args:
        new_CD: What is turned; finite.
        old_CD: Where to; finite.

    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966),
    https://doi.org/10.1007/BF02289451.
    """
    left_DD, _, right_DD = torch.linalg.svd(new_CD.double().T @ old_CD.double())
    return left_DD @ right_DD


def align(task: Task, older: Path, *, width: int | None) -> Alignment:
    """Fit the map on the items that a model and an older bundle have in common.

    Args:
        task: Trained, whole, and in evaluation mode.
        older: Directory of the bundle.
        width: First numbers that are kept of the model's vectors. None: all.

    Raises:
        RunConfigError: one of both is no sequence model, vectors cannot be compared, or there is
            no item in common.
        SchemaMismatchError: the older bundle is not whole.
        DataError: its vectors, or the model's, are not finite.
    """
    if not isinstance(task, SequenceTask):
        raise RunConfigError(
            f"{OPTION}: is of sequence models, got {older} for a ranking one; leave it out"
        )
    old = items_of_bundle(older, option=OPTION)
    vectors_VD = task.item_vectors_VD(width=width)
    ids_V = common_items(
        old,
        item_names(task.schema),
        widths=vectors_VD.shape[1:],
        has_bias=task.encoder.item_bias_V is not None,
        option=OPTION,
    )
    if not vectors_VD[1:].isfinite().all():
        raise DataError(
            f"{OPTION}: the model has items whose vectors are not finite, got NaN or infinity; "
            f"export an earlier checkpoint"
        )
    is_common_V = ids_V > 0
    new_CD, old_CD = vectors_VD[is_common_V].double(), old.vectors_VD[ids_V[is_common_V]].double()
    rotation_DD = rotation_onto(new_CD, old_CD)
    lengths = old_CD.norm(), new_CD.norm()
    scale = float(lengths[0] / lengths[1]) if all(lengths) else 1.0
    return Alignment(
        users_DD=(rotation_DD / scale).float(),
        items_DD=(rotation_DD * scale).float(),
        scale=scale,
        num_items=len(new_CD),
        num_older_items=len(old.names),
        cosine=float(F.cosine_similarity(new_CD @ rotation_DD, old_CD).mean()),
        bundle=bundle_id(older),
    )
