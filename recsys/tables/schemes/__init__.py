"""One file per scheme; `build_scheme` is the only place that knows them all."""

from __future__ import annotations

from typing import assert_never

import torch

from features import table_spec
from features.table_spec import StagedTable
from recsys.tables.hashing import salt
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import Scheme
from recsys.tables.schemes.autosrh import AutoSrhScheme
from recsys.tables.schemes.cce import CCEScheme
from recsys.tables.schemes.coded import CodedScheme
from recsys.tables.schemes.dedup import DedupScheme
from recsys.tables.schemes.deeplight import DeepLightScheme
from recsys.tables.schemes.dhe import DHEScheme
from recsys.tables.schemes.dpq import DPQScheme
from recsys.tables.schemes.full import FullScheme
from recsys.tables.schemes.hash import HashScheme
from recsys.tables.schemes.hashednet import HashedNetScheme
from recsys.tables.schemes.masked import MaskedScheme
from recsys.tables.schemes.merged import MergedScheme
from recsys.tables.schemes.mixed_dim import MixedDimScheme
from recsys.tables.schemes.multihash import MultihashScheme
from recsys.tables.schemes.optembed import OptEmbedScheme
from recsys.tables.schemes.pep import PepScheme
from recsys.tables.schemes.pq import PQScheme
from recsys.tables.schemes.pruned import PrunedScheme
from recsys.tables.schemes.qr import QRScheme
from recsys.tables.schemes.quantized import QuantizedScheme
from recsys.tables.schemes.robe import RobeScheme
from recsys.tables.schemes.tt import TTScheme
from recsys.tables.schemes.unified import UnifiedScheme
from recsys.tables.staged import StagedScheme


def build_scheme(table: LogicalTable, *, seed: int = 0, is_served: bool = False) -> Scheme:
    """The scheme that the feature file names for a table.

    Args:
        table: The logical table.
        seed: Of the first values of the scheme's own parameters, and of what it draws in training;
            first values of physical tables come with the stores.
        is_served: Whether to make the one that a bundle has, see `Scheme.served`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(salt("scheme", seed, table.name) & 0x7FFFFFFF)
        return _build(table, seed=seed, is_served=is_served)


def _build(table: LogicalTable, *, seed: int, is_served: bool) -> Scheme:
    spec = table.spec
    match spec:
        case table_spec.FullTable():
            return FullScheme(table)
        case table_spec.HashTable():
            return HashScheme(table)
        case table_spec.UnifiedTable():
            return UnifiedScheme(table, spec=spec)
        case table_spec.MultihashTable():
            return MultihashScheme(table, spec=spec)
        case table_spec.PQTable():
            return PQScheme(table, spec=spec)
        case table_spec.CCETable():
            return CCEScheme(table, spec=spec)
        case table_spec.DPQTable() | table_spec.MGQETable():
            return CodedScheme(table, spec=spec) if is_served else DPQScheme(table, spec=spec)
        case table_spec.QRTable():
            return QRScheme(table, spec=spec)
        case table_spec.RobeTable():
            return RobeScheme(table, spec=spec)
        case table_spec.HashedNetTable():
            return HashedNetScheme(table, spec=spec)
        case table_spec.TTTable():
            return TTScheme(table)
        case table_spec.DHETable():
            return DHEScheme(table, spec=spec)
        case table_spec.MixedDimTable():
            return MixedDimScheme(table)
        case table_spec.QuantizedTable():
            return QuantizedScheme(table, spec=spec, seed=seed)
        case table_spec.DedupTable():
            return DedupScheme(table, spec=spec)
        case table_spec.MergedTable():
            return MergedScheme(table)
        case table_spec.DeepLightTable():
            return DeepLightScheme(table, spec=spec)
        case table_spec.PepTable():
            return PepScheme(table, spec=spec, seed=seed)
        case table_spec.AutoSrhTable():
            return AutoSrhScheme(table, spec=spec, seed=seed)
        case table_spec.MaskedTable():
            return MaskedScheme(table)
        case table_spec.OptEmbedTable():
            return OptEmbedScheme(table, spec=spec, seed=seed)
        case table_spec.PrunedTable():
            return PrunedScheme(table)
        case _:
            assert_never(spec)


def staged_schemes() -> dict[type[StagedTable], type[StagedScheme]]:
    """Schemes of tables that are trained in stages, by what the feature file names."""
    return {
        table_spec.OptEmbedTable: OptEmbedScheme,
        table_spec.DedupTable: DedupScheme,
        table_spec.PepTable: PepScheme,
        table_spec.AutoSrhTable: AutoSrhScheme,
    }
