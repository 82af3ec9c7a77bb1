"""From a batch of ids to vectors, through the schemes and the stores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.columns import is_of_sequence
from features.errors import RunConfigError
from recsys.tables import sharding_checks
from recsys.tables.batch_checks import BatchChecks
from recsys.tables.config import TablesConfig
from recsys.tables.early import BegunLookup
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.pooling import pool
from recsys.tables.reads import Ids, of_events, unpack
from recsys.tables.scheme import BYTES_PER_NUMBER, Lookup, PhysicalTable, Scheme
from recsys.tables.schemes import build_scheme
from recsys.tables.stores import PooledStore, ReplicatedStore, Rows, SequenceStore, materialize
from recsys.types import Batch, Embedded, Jagged

_CATALOGUE_PART = 1 << 16


class Embedder(nn.Module):
    """All embedding tables of a model.

    Small tables are replicated and belong to the dense optimiser; the others are TorchRec
    collections, to be sharded by `TorchRecStrategy`, or made whole here by `materialize`.

    Args:
        tables: Logical tables of the schema.
        config: Where they live.
        is_served: Whether to make what a bundle has, see `Scheme.served`.

    Raises:
        FeatureConfigError: a scheme cannot store its table, or a sharded one has rows that fbgemm
            cannot read.
        RunConfigError: the sharding names a table that is not sharded, or cuts rows that must stay
            whole, or rows of 16 bits are not for a scheme.
    """

    def __init__(
        self, tables: Sequence[LogicalTable], *, config: TablesConfig, is_served: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self._schemes = tuple(
            build_scheme(table, seed=config.seed, is_served=is_served) for table in tables
        )
        self.schemes = nn.ModuleDict({scheme.table.name: scheme for scheme in self._schemes})
        readers = sorted((r for t in tables for r in t.readers), key=lambda r: r.position)
        self.readers = {reader.key: reader for reader in readers}
        self.widths = {k: w for s in self._schemes for k, w in s.widths.items()}
        self.scheme_of = {r.key: table.name for table in tables for r in table.readers}
        self._checks = BatchChecks.of(self._schemes)
        self._build_stores(is_served=is_served)
        sharded = {t: self.scheme_storing(t.name) for t in self.sharded_tables()}
        sharding_checks.check_widths([*sharded])
        sharding_checks.check_sharding(config, [*sharded])
        sharding_checks.check_host_memory(config, self._schemes)
        sharding_checks.check_row_dtype(config, {t.name: scheme for t, scheme in sharded.items()})

    def forward(
        self,
        batch: Batch,
        *,
        keys: Collection[str] | None = None,
        begun: BegunLookup | None = None,
    ) -> Embedded:
        """Look up everything a batch holds; readers it has nothing for are left out.

        Args:
            batch: Ids.
            keys: Readers to look up, at least one. None: all.
            begun: What `begin` gave for the batch. None: nothing has been begun.

        Raises:
            DataError, SchemaMismatchError: see `check`.
        """
        if begun is None:
            self.check(batch)
            readers = {k: r for k, r in self.readers.items() if keys is None or k in keys}
            begun = self._unbegun([batch.ids, batch.sequences], readers, num_examples=len(batch))
        present, vectors = begun.present, self._look_up(begun)
        fields, sequences = {}, {}
        for key, reader in self.readers.items():
            if key not in present:
                continue
            if key in self._one_each:
                fields[key] = vectors[key]
            else:
                jagged = of_events(vectors[key], present[key], reader)
                if reader.pooling == "none":
                    sequences[key] = jagged
                    continue
                fields[key] = pool(jagged.values_LD, jagged.lengths_B, how=reader.pooling)
            if batch.histories_B is not None and is_of_sequence(reader.column):
                fields[key] = fields[key].index_select(0, batch.histories_B)
        return Embedded(
            fields=fields,
            sequences=sequences,
            dense_BN=batch.dense_BN,
            histories_B=batch.histories_B,
        )

    def check(self, batch: Batch) -> None:
        """Look at all ids, where they lie on a CPU: before a kernel does.

        Raises:
            DataError: it is no batch: lengths, counts or types do not fit.
            SchemaMismatchError: an id is not among those of its table.
        """
        self._checks.check(batch)

    def sequences(self, keyed: KeyedJaggedTensor) -> dict[str, Jagged]:
        """Look up the events of some sequences, by key; keys without a reader are left out.

        Args:
            keyed: Ids of readers whose vectors are not pooled, those of one event apart.

        Raises:
            DataError, SchemaMismatchError: see `check`.
        """
        self._checks.check_keyed(keyed, num_examples=keyed.stride(), where="events")
        unbegun = self._unbegun([keyed], self.readers, num_examples=keyed.stride())
        return self.begun_sequences(unbegun)

    def begin(self, batch: Batch) -> BegunLookup:
        """Do of `forward` what the ids decide, while a step may still change the tables.

        Args:
            batch: Ids.

        Raises:
            DataError, SchemaMismatchError: see `check`.
        """
        self.check(batch)
        parts = [batch.ids, batch.sequences]
        return self._begun(self._unbegun(parts, self.readers, num_examples=len(batch)))

    def begin_sequences(self, keyed: KeyedJaggedTensor) -> BegunLookup:
        """Do of `sequences` what the ids decide, while a step may still change the tables.

        Args:
            keyed: As `sequences` gets them.

        Raises:
            DataError, SchemaMismatchError: see `check`.
        """
        self._checks.check_keyed(keyed, num_examples=keyed.stride(), where="events")
        return self._begun(self._unbegun([keyed], self.readers, num_examples=keyed.stride()))

    def begun_sequences(self, begun: BegunLookup) -> dict[str, Jagged]:
        """The rest of `sequences`.

        Args:
            begun: By `begin_sequences`.
        """
        vectors = self._look_up(begun)
        return {k: of_events(vectors[k], ids, self.readers[k]) for k, ids in begun.present.items()}

    def catalogue(self, key: str, *, num_ids: int) -> Tensor:
        """Vectors (num_ids, D) of every id of a reader; with gradient for a replicated table.

        Args:
            key: The reader.
            num_ids: Size of the catalogue.

        Raises:
            RunConfigError: the table is sharded and a gradient is asked for.
        """
        scheme = self._scheme(self.scheme_of[key])
        is_sharded = self.check_catalogue(key) is not None
        if is_sharded and torch.is_grad_enabled():
            raise RunConfigError(str(self.check_catalogue(key)))
        device = next(chain(self.parameters(), self.buffers())).device
        if is_sharded:  # a part at a time: ids and vectors of a lookup are copied between ranks
            parts = torch.arange(num_ids, device=device).split(_CATALOGUE_PART)
            looked_up = [self.sequences(_one_example(key, part))[key] for part in parts]
            return torch.cat([part.values_LD for part in looked_up])
        every_id = torch.arange(num_ids, device=device)
        ids = {r.key: every_id if r.key == key else every_id[:0] for r in scheme.table.readers}
        rows = {name: Rows(of_lookup, every_id) for name, of_lookup in scheme.remap(ids).items()}
        return scheme.combine(self.replicated(rows), ids)[key]

    def check_catalogue(self, key: str) -> str | None:
        """Why no loss can compare with the whole catalogue of a reader; None where one can."""
        sharded = {t.name for t in self.sharded_tables()}
        tables = [t for t in self._scheme(self.scheme_of[key]).physical_tables if t.name in sharded]
        if not tables:
            return None
        table = tables[0]
        return (
            f"tables.{table.name}: a softmax over the whole catalogue needs a replicated table, "
            f"got a sharded one of {table.num_bytes} bytes; set model.loss to SampledSoftmax, or "
            f"tables.dense_max_bytes to {table.num_bytes} or more"
        )

    def row_meanings(self) -> dict[str, Any]:
        """What decides which rows an id reaches, as JSON, by logical table."""
        return {scheme.table.name: scheme.row_meaning() for scheme in self._schemes}

    def settled_after(self) -> dict[str, int]:
        """Steps after which logical tables are what the feature file asks for, if not at once."""
        return {s.table.name: s.settled_after for s in self._schemes if s.settled_after}

    def penalty(self) -> Tensor | None:
        """What all schemes add to the loss of a training step; None: nothing."""
        penalties = [p for scheme in self._schemes if (p := scheme.penalty()) is not None]
        return torch.stack(penalties).sum() if penalties else None

    def gauges(self) -> dict[str, Tensor]:
        """What schemes say of themselves in training, by `table/name`."""
        found = {scheme.table.name: scheme.gauges() for scheme in self._schemes}
        return {f"{table}/{name}": v for table, of in found.items() for name, v in of.items()}

    def updated_by_schemes(self) -> list[nn.Parameter]:
        """Parameters of schemes that the dense optimiser leaves out."""
        return [p for scheme in self._schemes for p in scheme.updated_by_itself()]

    @property
    def num_bytes(self) -> int:
        """All that training changes of all tables, on all ranks together."""
        return sum(scheme.num_bytes for scheme in self._schemes)

    @property
    def num_training_bytes(self) -> int:
        """Of all numbers that training holds of all tables, on all ranks together."""
        spared = BYTES_PER_NUMBER - self.config.bytes_per_row_number
        sharded = sum(table.num_rows * table.dim for table in self.sharded_tables())
        return sum(scheme.num_training_bytes for scheme in self._schemes) - spared * sharded

    @property
    def index_bytes(self) -> int:
        """Integers beside that, which say where ids go; every rank holds them all."""
        return sum(scheme.index_bytes for scheme in self._schemes)

    def tensor_names(self, tables: Iterable[str]) -> set[str]:
        """Names in the state of all that some logical tables are stored in."""
        chosen = [s for s in self._schemes if s.table.name in set(tables)]
        physical = {table.name for scheme in chosen for table in scheme.physical_tables}
        own = tuple(f"schemes.{scheme.table.name}." for scheme in chosen)
        return {
            name
            for name in self.state_dict()
            if name.startswith(own) or physical & {name.split(".")[-1], name.split(".")[-2]}
        }

    def sharded_tables(self) -> tuple[PhysicalTable, ...]:
        """Tables of the TorchRec collections."""
        return tuple(t for tables in self._sharded.values() for t in tables)

    def sharded_parameters(self) -> list[nn.Parameter]:
        """Weights of the TorchRec collections."""
        stores = [self.get_submodule(place) for place in self._sharded]
        return [parameter for store in stores for parameter in store.parameters()]

    def scheme_storing(self, table: str) -> Scheme:
        """The scheme that a physical table belongs to."""
        return next(s for s in self._schemes if table in {t.name for t in s.physical_tables})

    def lookup_lengths(self) -> dict[str, list[int]]:
        """Most ids of an example, by sharded table, of each of its lookups."""
        lookups = {table.name: self._lookups_of([table]) for table in self.sharded_tables()}
        return {t: [self.readers[x.reader].max_length for x in of] for t, of in lookups.items()}

    def replicated_tables(self) -> tuple[PhysicalTable, ...]:
        """Tables of the dense optimiser."""
        names = {*self.replicated.weights, *self.replicated.held}
        return tuple(t for s in self._schemes for t in s.physical_tables if t.name in names)

    def materialize(self) -> None:
        """Make the collections whole on the CPU, with their first values, to run unsharded."""
        for place, tables in self._sharded.items():
            materialize(self._store(place), tables, seed=self.config.seed)

    # ------------------------------------------------------------------------------ inside
    def _build_stores(self, *, is_served: bool) -> None:
        replicated, by_place = [], {}
        for scheme in self._schemes:
            for table in scheme.physical_tables:
                if table.num_bytes <= self.config.dense_max_bytes:
                    replicated.append(table)
                else:
                    place = "pooled" if _pools_early(scheme) else f"sequence_{table.dim}"
                    by_place.setdefault(place, []).append(table)
        seed, dtype = self.config.seed, self.config.row_dtype
        self.replicated = ReplicatedStore(
            replicated, self._lookups_of(replicated), seed=seed, is_served=is_served
        )
        self._sharded: dict[str, list[PhysicalTable]] = by_place
        for place, tables in by_place.items():
            lookups = self._lookups_of(tables)
            if place == "pooled":
                pooling = {t.name: self._bag_pooling(t.name) for t in tables}
                store = PooledStore(tables, lookups, pooling=pooling, row_dtype=dtype)
            else:
                store = SequenceStore(tables, lookups, row_dtype=dtype)
            self.add_module(place, store)
        self._one_each = self._readers_with_one_vector()

    def _unbegun(
        self,
        parts: Sequence[KeyedJaggedTensor | None],
        readers: Mapping[str, Reader],
        *,
        num_examples: int,
    ) -> BegunLookup:
        """What is read; a collection wants every one of its keys, if only with no ids."""
        present = dict(unpack(parts, readers))
        if len(present) == len(self.readers):
            return BegunLookup(present, present)
        device = next(iter(present.values())).values_L.device
        nothing = Ids(
            values_L=torch.zeros(0, dtype=torch.int64, device=device),
            lengths_B=torch.zeros(num_examples, dtype=torch.int64, device=device),
        )
        return BegunLookup(present, {key: present.get(key, nothing) for key in self.readers})

    def _begun(self, unbegun: BegunLookup) -> BegunLookup:
        rows: dict[str, Rows] = {}
        for scheme in self._schemes:
            if scheme.remap_is_fixed:
                rows |= _rows(scheme, unbegun.ids)
        sent = {
            place: begun
            for place, tables in self._sharded.items()
            if all(lookup.name in rows for lookup in self._lookups_of(tables))
            and (begun := self._store(place).begin(rows)) is not None
        }
        return replace(unbegun, rows=rows, sent=sent)

    def _look_up(self, begun: BegunLookup) -> dict[str, Tensor]:
        """Combined vectors by reader."""
        rows, ids = dict(begun.rows), begun.ids
        for scheme in self._schemes:
            if any(lookup.name not in rows for lookup in scheme.lookups):
                rows |= _rows(scheme, ids)
        vectors = self.replicated(rows)
        for place in self._sharded:
            vectors |= self._store(place)(rows, sent=begun.sent.get(place))
        combined: dict[str, Tensor] = {}
        for scheme in self._schemes:
            # A collection gives vectors of zeros to the examples of a reader that is not read.
            stop = {x.name: None if x.reader in begun.present else 0 for x in scheme.lookups}
            looked_up = {name: vectors[name][:end] for name, end in stop.items()}
            of_readers = {r.key: ids[r.key].values_L for r in scheme.table.readers}
            combined |= scheme.combine(looked_up, of_readers)
        return combined

    def _store(self, place: str) -> PooledStore | SequenceStore:
        store = self.get_submodule(place)
        assert isinstance(store, PooledStore | SequenceStore)
        return store

    def _readers_with_one_vector(self) -> frozenset[str]:
        """Those whose looked-up vectors need no pooling: one id each, or pooled by the store."""
        pooled = {x.reader for x in self._lookups_of(self._sharded.get("pooled", []))}
        return frozenset(k for k, r in self.readers.items() if k in pooled or not r.is_multi_valued)

    def _lookups_of(self, tables: Sequence[PhysicalTable]) -> list[Lookup]:
        names = {table.name for table in tables}
        return [x for scheme in self._schemes for x in scheme.lookups if x.table in names]

    def _bag_pooling(self, table: str) -> str:
        readers = self.scheme_storing(table).table.readers
        return next((r.pooling for r in readers if r.is_multi_valued), "sum")

    def _scheme(self, name: str) -> Scheme:
        scheme = self.schemes[name]
        assert isinstance(scheme, Scheme)
        return scheme


def _pools_early(scheme: Scheme) -> bool:
    """Whether fbgemm may pool the rows of an example before anything else sees them."""
    poolings = {r.pooling for r in scheme.table.readers if r.is_multi_valued}
    if any(r.event_pooling != "none" for r in scheme.table.readers):  # fbgemm pools but once
        return False
    return "none" not in poolings and (
        not poolings or (len(poolings) == 1 and scheme.combines_linearly)
    )


def _rows(scheme: Scheme, ids: Mapping[str, Ids]) -> dict[str, Rows]:
    """Rows by lookup."""
    remapped = scheme.remap({r.key: ids[r.key].values_L for r in scheme.table.readers})
    return {x.name: Rows(remapped[x.name], ids[x.reader].lengths_B) for x in scheme.lookups}


def _one_example(key: str, ids: Tensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(keys=[key], values=ids, lengths=ids.new_tensor([len(ids)]))
