"""The items of a sequence bundle by their raw ids, and the vectors that they are scored by.

V items, the out-of-vocabulary id 0 included · D width · A items of the catalogue asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from features.errors import DataError, RunConfigError, SchemaMismatchError
from recsys.bundle import read_bundle
from recsys.bundle_tables import BundleTables
from recsys.item_names import item_names


@dataclass(frozen=True)
class BundleItems:
    """The items of a sequence bundle.

    Attributes:
        names: Raw id of each as text, from id 1 on.
        vectors_VD: What they are scored by, without their bias; row 0 is that of unknown ones.
        has_bias: Whether a bias is added to the score of each.
    """

    names: pl.Series
    vectors_VD: Tensor
    has_bias: bool

    def ids_of(self, names: pl.Series) -> Tensor:
        """Ids here (A,) of the items of another catalogue; 0 of the unknown ones, and of its id 0.

        Args:
            names: Raw ids of the others as text, from id 1 on.
        """
        known = pl.DataFrame({"name": self.names, "id": range(1, len(self.names) + 1)})
        found = names.to_frame("name").join(known, on="name", how="left", maintain_order="left")
        return torch.cat([torch.zeros(1, dtype=torch.int64), _whole(found["id"])])


def items_of_bundle(bundle: Path, *, option: str) -> BundleItems:
    """The items of a bundle that another one is to be compatible with.

    Args:
        bundle: Its directory.
        option: Who names it, for messages.

    Raises:
        RunConfigError: it is none of a sequence model.
        SchemaMismatchError: it is not whole.
        DataError: a vector of an item is not finite.
    """
    try:
        manifest, schema = read_bundle(bundle)
    except SchemaMismatchError as error:
        raise SchemaMismatchError(f"{option}: {mistake}" for mistake in error.mistakes) from None
    if manifest.task != "sequence":
        raise RunConfigError(
            f"{option}: has no vectors of items, got {bundle}, a bundle of task {manifest.task}; "
            f"allowed one of a sequence model"
        )
    names = item_names(schema)
    tables = BundleTables(bundle, manifest=manifest, schema=schema)
    vectors_VD = tables.item_vectors_VD.clone()  # one that may be part of a loss
    if not vectors_VD[1:].isfinite().all():
        raise DataError(
            f"{option}: {bundle} has items whose vectors are not finite, got NaN or infinity; "
            f"export an earlier checkpoint of it"
        )
    return BundleItems(names.cast(pl.String), vectors_VD, tables.item_bias_V is not None)


def common_items(
    old: BundleItems, names: pl.Series, *, widths: Sequence[int], has_bias: bool, option: str
) -> Tensor:
    """Ids in an older bundle (A,) of the items of a model that is to be compatible with it.

    Args:
        old: Items of the older one.
        names: Raw ids of the model's items, from id 1 on.
        widths: At which the first numbers of the model's vectors serve alone, all of them last.
        has_bias: Whether the model adds a bias to the score of each item.
        option: Who asks for it, for messages.

    Returns:
        0 for items that the older one does not know, and for id 0.

    Raises:
        RunConfigError: vectors of the two cannot be compared, or they have no item in common.
    """
    ids_A = old.ids_of(names.cast(pl.String))
    mistakes = list(_unlike(old, widths=widths, has_bias=has_bias, option=option))
    if not ids_A.any():
        mistakes.append(
            f"{option}: knows none of the items, got raw ids such as "
            f"{_examples(names)} and, of the bundle, {_examples(old.names)}; allowed a bundle of "
            f"the same catalogue; look at the item column of both feature files"
        )
    if mistakes:
        raise RunConfigError(mistakes)
    return ids_A


def _unlike(
    old: BundleItems, *, widths: Sequence[int], has_bias: bool, option: str
) -> Iterator[str]:
    old_width = old.vectors_VD.shape[1]
    if old_width not in widths:
        is_wider = old_width < widths[-1]
        or_wider = f", or train with {old_width} among model.prefix_widths" if is_wider else ""
        yield (
            f"{option}: has vectors of another width, got {', '.join(map(str, widths))} numbers, "
            f"and {old_width} in the bundle; allowed {old_width}; set the width of the item "
            f"feature to it{or_wider}"
        )
    if has_bias != old.has_bias:
        words: Mapping[bool, str] = {True: "a bias of each item", False: "none"}
        yield (
            f"{option}: scores items otherwise, got {words[has_bias]}, and {words[old.has_bias]} "
            f"in the bundle; allowed the same in both; take an encoder such as that of the bundle"
        )


def _examples(names: pl.Series) -> str:
    return ", ".join(repr(name) for name in names.drop_nulls().head(3)) or "none"


def _whole(numbers: pl.Series) -> Tensor:
    return torch.from_numpy(numbers.fill_null(0).cast(pl.Int64).to_numpy().copy())
