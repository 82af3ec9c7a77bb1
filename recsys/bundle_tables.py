"""The tables of a bundle without its programs, and the vectors that items are scored by.

V items, the out-of-vocabulary id 0 included · D width.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from features.errors import SchemaMismatchError
from features.schema import FeatureSchema
from recsys.bundle import ITEM_BIAS, ITEM_MAP, MODEL, TABLES, BundleManifest
from recsys.data.item_sequence import ItemSequence
from recsys.tables.config import TablesConfig
from recsys.tables.embedder import Embedder
from recsys.tables.logical import OUTPUT, logical_tables, with_output
from recsys.tables.packing import unpack_into


class BundleTables:
    """The tables of a bundle, whole and in memory.

    Args:
        bundle: Its directory.
        manifest: As `read_bundle` gives it.
        schema: The same.

    Attributes:
        embedder: Looks vectors up.
        item_bias_V: Is added to the score of each item of a sequence bundle, where there is one.

    Raises:
        SchemaMismatchError: it is one of a sequence model of an older version.
    """

    def __init__(self, bundle: Path, *, manifest: BundleManifest, schema: FeatureSchema) -> None:
        self._manifest, self._schema = manifest, schema
        tables = logical_tables(schema)
        if manifest.task == "sequence":
            if manifest.width is None:
                raise SchemaMismatchError(
                    f"{bundle / MODEL}: gives no vectors, got a bundle of an older version; export "
                    f"again"
                )
            if manifest.item_output == "separate":
                tables = with_output(tables, of=ItemSequence.of(schema.feature_set).keys[0])
        config = replace(TablesConfig(), dense_max_bytes=sys.maxsize)
        self.embedder = Embedder(tables, config=config, is_served=True).eval()
        tensors = load_file(bundle / TABLES)
        self.item_bias_V: Tensor | None = tensors.pop(ITEM_BIAS, None)
        self._item_map_DD: Tensor | None = tensors.pop(ITEM_MAP, None)
        unpack_into(self.embedder, tensors)

    @cached_property
    def item_vectors_VD(self) -> Tensor:
        """What items of a sequence bundle are scored by, without their bias."""
        items = ItemSequence.of(self._schema.feature_set)
        num_items = self._schema.num_ids(items.item)
        assert num_items is not None, "an item catalogue is bounded"
        tied = self._manifest.item_output == "tied"
        with torch.inference_mode():
            catalogue_VD = self.embedder.catalogue(
                items.keys[0] if tied else OUTPUT, num_ids=num_items
            )
            vectors_VD = catalogue_VD[:, : self._manifest.width].contiguous()
            return vectors_VD if self._item_map_DD is None else vectors_VD @ self._item_map_DD
