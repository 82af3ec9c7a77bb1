"""Where physical tables live: replicated beside the model, or in TorchRec's sharded collections.

Every store answers the same call: rows by lookup in, vectors by lookup out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.modules.embedding_configs import (
    DataType,
    EmbeddingBagConfig,
    EmbeddingConfig,
    PoolingType,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.tables.config import RowDType
from recsys.tables.few_bits import FewBitRows, HalfRows
from recsys.tables.initial import initial_rows
from recsys.tables.scheme import Lookup, PhysicalTable
from recsys.tables.sent_rows import SentRows


@dataclass(frozen=True)
class Rows:
    """Rows that one lookup reads.

    Attributes:
        values_L: Rows of all examples, packed.
        lengths_B: How many each example reads.
    """

    values_L: Tensor
    lengths_B: Tensor


class ReplicatedStore(nn.Module):
    """Small tables, a copy on every rank, trained by the dense optimiser. Gives a vector per row.

    Args:
        tables: What is stored.
        lookups: Who reads it.
        seed: Of the first values.
        is_served: Whether a bundle fills it; until then it takes no memory.
    """

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        *,
        seed: int,
        is_served: bool = False,
    ) -> None:
        super().__init__()
        self.lookups = {
            table.name: tuple(x.name for x in lookups if x.table == table.name) for table in tables
        }
        self.weights = nn.ParameterDict(
            {
                table.name: nn.Parameter(
                    torch.empty(table.num_rows, table.dim, device="meta")
                    if is_served
                    else initial_rows(table, seed=seed)
                )
                for table in tables
            }
        )
        self.held = nn.ModuleDict()

    def hold(self, table: str, rows: FewBitRows | HalfRows) -> None:
        """Read a table from rows of fewer bits, which are brought to 32 when they are read."""
        del self.weights[table]
        self.held[table] = rows

    def forward(self, rows: Mapping[str, Rows]) -> dict[str, Tensor]:
        """Vectors (L, D) by lookup."""
        vectors: dict[str, Tensor] = {}
        for table, names in self.lookups.items():
            present = [name for name in names if name in rows]
            if not present:
                continue
            values = [rows[name].values_L for name in present]
            rows_L = torch.cat(values)
            if table in self.held:
                looked_up = self.held[table](rows_L)
            else:
                looked_up = F.embedding(rows_L, self.weights[table])
            vectors |= zip(present, looked_up.split([v.numel() for v in values]), strict=True)
        return vectors


class _CollectionStore(nn.Module):
    """Tables in a collection of TorchRec's; `names` are the lookups that it has as keys."""

    names: list[str]
    collection: EmbeddingBagCollection | EmbeddingCollection

    def begin(self, rows: Mapping[str, Rows]) -> SentRows | None:
        """Begin what `forward` does, without reading the tables; None: it cannot be begun."""
        return SentRows.begin(self.collection, _keyed_jagged(self.names, rows))

    def _looked_up(self, rows: Mapping[str, Rows], sent: SentRows | None) -> Any:
        if sent is not None:
            return sent.look_up()
        return self.collection(_keyed_jagged(self.names, rows))


class PooledStore(_CollectionStore):
    """Sharded tables whose readers want one vector per example. Gives a pooled vector (B, D).

    Args:
        tables: What is stored.
        lookups: Who reads it.
        pooling: `sum` or `mean`, by table.
        row_dtype: What rows are stored in; vectors are float32 all the same.
    """

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        *,
        pooling: Mapping[str, str],
        row_dtype: RowDType,
    ) -> None:
        super().__init__()
        self.names = [lookup.name for lookup in lookups]
        self.means = [lookup.name for lookup in lookups if pooling[lookup.table] == "mean"]
        # On the meta device: the sharded form allocates each rank's part alone, and
        # `materialize` the whole where nothing is sharded.
        self.collection = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    num_embeddings=table.num_rows,
                    embedding_dim=table.dim,
                    feature_names=[x.name for x in lookups if x.table == table.name],
                    # TorchRec divides the means of a table-wise table twice where another table
                    # of the collection is row-wise.
                    pooling=PoolingType.SUM,
                    data_type=_data_type(row_dtype),
                )
                for table in tables
            ],
        )

    def forward(
        self, rows: Mapping[str, Rows], *, sent: SentRows | None = None
    ) -> dict[str, Tensor]:
        """Pooled vectors (B, D) by lookup.

        Args:
            rows: By lookup.
            sent: What `begin` gave for these rows. None: nothing has been begun.
        """
        pooled = self._looked_up(rows, sent)
        # Sharded they are float32 already.
        vectors_of = pooled.values().float().split(pooled.length_per_key(), dim=1)
        # By name: the order of the keys follows the sharding plan.
        vectors = dict(zip(pooled.keys(), vectors_of, strict=True))
        for name in self.means:
            vectors[name] = vectors[name] / rows[name].lengths_B.clamp(min=1).unsqueeze(1)
        return vectors


class SequenceStore(_CollectionStore):
    """Sharded tables that at least one reader reads id by id. Gives a vector (L, D) per row.

    Args:
        tables: What is stored, all of one width.
        lookups: Who reads it.
        row_dtype: As in `PooledStore`.
    """

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        *,
        row_dtype: RowDType,
    ) -> None:
        super().__init__()
        self.names = [lookup.name for lookup in lookups]
        self.collection = EmbeddingCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingConfig(
                    name=table.name,
                    num_embeddings=table.num_rows,
                    embedding_dim=table.dim,
                    feature_names=[x.name for x in lookups if x.table == table.name],
                    data_type=_data_type(row_dtype),
                )
                for table in tables
            ],
        )

    def forward(
        self, rows: Mapping[str, Rows], *, sent: SentRows | None = None
    ) -> dict[str, Tensor]:
        """Vectors (L, D) by lookup.

        Args:
            rows: By lookup.
            sent: What `begin` gave for these rows. None: nothing has been begun.
        """
        looked_up = self._looked_up(rows, sent)
        # Sharded they are float32 already.
        return {name: looked_up[name].values().float() for name in self.names}


def materialize(
    store: PooledStore | SequenceStore, tables: Sequence[PhysicalTable], *, seed: int
) -> None:
    """Give an unsharded collection its memory and its first values."""
    store.collection.to_empty(device=torch.device("cpu"))
    weights = dict(store.collection.named_parameters())
    for table in tables:
        [weight] = [w for name, w in weights.items() if name.split(".")[-2] == table.name]
        with torch.no_grad():
            weight.copy_(initial_rows(table, seed=seed))


def table_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the state of each physical table.

    Args:
        names: Of a task's state.
    """
    found = {}
    for name in names:
        parts = name.split(".")
        if parts[0] != "embedder":
            continue
        if "collection" in parts and parts[-1] == "weight":
            found[parts[-2]] = name
        elif parts[1:3] == ["replicated", "weights"]:
            found[".".join(parts[3:])] = name
    return found


def _data_type(row_dtype: RowDType) -> DataType:
    match row_dtype:
        case "fp32":
            return DataType.FP32
        case "fp16":
            return DataType.FP16
        case "bf16":
            return DataType.BF16
        case _:
            assert_never(row_dtype)


def _keyed_jagged(names: Sequence[str], rows: Mapping[str, Rows]) -> KeyedJaggedTensor:
    values = [rows[name].values_L for name in names]
    return KeyedJaggedTensor(
        keys=list(names),
        values=torch.cat(values),
        lengths=cast(Tensor, torch.cat([rows[name].lengths_B for name in names])),
        # Known here; TorchRec would add the lengths up on the device, and wait for it.
        length_per_key=[len(each) for each in values],
    )
