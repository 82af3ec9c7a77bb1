"""Writes what the plans say: tables with the state of their optimisers, and layers with theirs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.checkpoint import DENSE, FUSED, MODEL
from recsys.migration.cuts import readers_of, vectors_name
from recsys.migration.layers import LayerPlan
from recsys.migration.matrix import Counts, Matrix, Readable, Strip, fill, of_rows
from recsys.migration.sources import rows_of
from recsys.migration.stored import StoredTensors
from recsys.migration.tables import Edit, TablePlan, own_names
from recsys.migration.vectors import Vectors
from recsys.tables.blocks import Block
from recsys.tables.initial import fill_initial
from recsys.tables.scheme import PhysicalTable, Scheme
from recsys.tables.stores import table_names
from recsys.training.task import Task

_IDS_AT_ONCE = 1 << 16
_FP32 = np.dtype(np.float32)


@dataclass
class TableReport:
    """What became of a logical table.

    Attributes:
        rows: Of all its physical tables.
        counts: Of these rows.
        state: What is kept of the optimiser's state, by its name; empty: it begins anew.
        loss: Mean squared distance of ids' vectors before and after, over their mean square; None
            where no row is a mean of several.
    """

    rows: int = 0
    counts: Counts = field(default_factory=Counts)
    state: tuple[str, ...] = ()
    loss: float | None = None


class Filler:
    """Fills the tensors of a new checkpoint.

    Args:
        edit: Schemas and tables before and after.
        tasks: The task of the old schema and that of the new one.
        stored: The old checkpoint.
        scratch: Directory for tables that are too large for memory.
    """

    def __init__(
        self, edit: Edit, *, tasks: tuple[Task, Task], stored: StoredTensors, scratch: Path
    ) -> None:
        self.edit = edit
        self.old, self.new = tasks
        self.stored = stored
        self.scratch = scratch
        self._old_names = table_names(n.removeprefix(MODEL) for n in stored.shapes)
        self._new_names = table_names(self.new.state_dict())
        self._readable: dict[str, Readable] = {}

    # -------------------------------------------------------------------------------- tables
    def table(self, plan: TablePlan) -> tuple[dict[str, Tensor], TableReport]:
        """The tensors of a logical table, with the state of their optimiser."""
        self._open(plan)
        tensors: dict[str, Tensor] = {}
        report = TableReport()
        weights: dict[str, Matrix] = {}
        states: set[str] | None = None
        for table in plan.scheme.physical_tables:
            strips = plan.strips.get(table.name, ())
            name = self._new_names[table.name]
            out = self._matrix((table.num_rows, table.dim), dtype=self._row_dtype(name))
            fresh = partial(self._fresh, table=table, zero=plan.zero.get(table.name, ()))
            counts = fill(out, strips, self._readable, fresh=fresh)
            weights[table.name] = out
            report.rows += table.num_rows
            report.counts.kept += counts.kept
            report.counts.merged += counts.merged
            report.counts.initialised += counts.initialised
            tensors[MODEL + name] = torch.from_numpy(out)
            if strips:
                of_table = dict(self._states(table, strips))
                keys = {name.rpartition(".")[2] for name in of_table}
                states = keys if states is None else states & keys
                tensors |= of_table
        report.state = tuple(sorted(states or ()))
        if report.counts.merged:
            report.loss = self._loss(plan, weights)
        return tensors | self._own(plan), report

    def _open(self, plan: TablePlan) -> None:
        """Make readable what a plan reads."""
        for origin in plan.origins.values():
            for table in origin.scheme.physical_tables:
                if table.name not in self._readable:
                    name = MODEL + self._old_names[table.name]
                    self._readable[table.name] = self.stored.matrix(name)
            if plan.way == "unpacked" and not origin.scheme.is_made_of_rows:
                self._load_own(origin.scheme)
                self._readable[vectors_name(origin)] = Vectors(
                    origin.scheme, origin.reader, self._readable
                )

    def _fresh(
        self, rows_RD: Matrix, low: int, *, table: PhysicalTable, zero: tuple[Block, ...]
    ) -> None:
        """What a new table has in a range of rows, or zeros."""
        part = torch.from_numpy(rows_RD)
        seed = self.new.tables_config.seed
        fill_initial(part, table, seed=seed, first_row=low, first_column=0)
        for block in zero:
            rows_RD[max(0, block.first - low) : max(0, block.first + block.size - low)] = 0

    def _states(
        self, table: PhysicalTable, strips: tuple[Strip, ...]
    ) -> Iterator[tuple[str, Tensor]]:
        """What the optimiser keeps beside a table, where all that it comes from has it."""
        name = self._new_names[table.name]
        is_sharded = "collection" in name
        prefix = f"{FUSED}{name}.{table.name}." if is_sharded else f"{DENSE}{name}."
        found = [self._state_of(p.of, is_sharded) for s in strips for p in s.places]
        for key in sorted(set.intersection(*map(set, found))):
            shapes = {len(self.stored.shapes[of[key]]) for of in found}
            if shapes == {0}:
                steps = [self.stored.tensors([of[key]])[of[key]] for of in found]
                yield prefix + key, torch.stack(steps).max()
                continue
            if len(shapes) != 1:
                continue
            read = {
                place.of: self.stored.matrix(of[key])
                for place, of in zip((p for s in strips for p in s.places), found, strict=True)
            }
            is_by_row = shapes == {1}
            size = (table.num_rows, 1 if is_by_row else table.dim)
            out = self._matrix(size)
            fill(out, [of_rows(strips)] if is_by_row else strips, read, fresh=_zeros)
            values = torch.from_numpy(out)
            yield prefix + key, values.view(-1) if is_by_row else values

    def _state_of(self, of: str, is_sharded: bool) -> dict[str, str]:
        """Names of the states of an old table, by key."""
        name = self._old_names.get(of)
        if name is None or ("collection" in name) != is_sharded:
            return {}
        prefix = f"{FUSED}{name}.{of}." if is_sharded else f"{DENSE}{name}."
        return {n.removeprefix(prefix): n for n in self.stored.shapes if n.startswith(prefix)}

    def _own(self, plan: TablePlan) -> dict[str, Tensor]:
        """Parameters and buffers of a scheme itself."""
        place = f"embedder.schemes.{plan.scheme.table.name}."
        state = {MODEL + place + n: t.detach() for n, t in plan.scheme.state_dict().items()}
        if plan.was is None:
            return state
        before = f"embedder.schemes.{plan.was.table.name}."
        for new, old in (own_names(self.edit, plan.scheme, plan.was) or {}).items():
            named = [(MODEL + before + old, MODEL + place + new)]
            of_old = f"{DENSE}{before}{old}."
            keys = [n.removeprefix(of_old) for n in self.stored.shapes if n.startswith(of_old)]
            named += [(of_old + key, f"{DENSE}{place}{new}.{key}") for key in keys]
            found = self.stored.tensors([old_name for old_name, _ in named])
            state |= {new_name: found[old_name] for old_name, new_name in named}
        return state

    def _load_own(self, scheme: Scheme) -> None:
        place = f"{MODEL}embedder.schemes.{scheme.table.name}."
        names = [place + name for name in scheme.state_dict()]
        found = self.stored.tensors(names)
        scheme.load_state_dict({n.removeprefix(place): t for n, t in found.items()})

    def _loss(self, plan: TablePlan, weights: Mapping[str, Matrix]) -> float:
        """How far vectors of ids moved, as a share of their mean square."""
        moved, total = 0.0, 0.0
        for cut in plan.cuts:
            reader = readers_of(plan.scheme)[cut.namespace]
            width = cut.stop - cut.start
            for low in range(0, cut.origin.ids.num_new or 0, _IDS_AT_ONCE):
                new_S, old_S, _ = cut.origin.ids.within(low, low + _IDS_AT_ONCE)
                rows_S = rows_of(plan.scheme, reader, new_S)[cut.lookup.name]
                now = weights[cut.lookup.table][rows_S, cut.start : cut.stop]
                if cut.old is None:
                    of, old_rows_S = vectors_name(cut.origin), old_S
                else:
                    of = cut.old.table
                    read = rows_of(cut.origin.scheme, cut.origin.reader, old_S)
                    old_rows_S = read[cut.old.name]
                columns = slice(cut.old_start, cut.old_start + width)
                before = self._readable[of].rows(old_rows_S, columns).astype(np.float64)
                moved += float(np.square(now - before).sum())
                total += float(np.square(before).sum())
        return moved / total if total else 0.0

    def _row_dtype(self, name: str) -> np.dtype[Any]:
        """Of a table in the new checkpoint, by its name there; numpy has no bf16."""
        is_half = "collection" in name and self.new.tables_config.row_dtype == "fp16"
        return np.dtype(np.float16 if is_half else np.float32)

    def _matrix(self, shape: tuple[int, int], *, dtype: np.dtype[Any] = _FP32) -> Matrix:
        """A table on disk, to be filled and saved from there."""
        if 0 in shape:
            return np.zeros(shape, dtype=dtype)
        with tempfile.NamedTemporaryFile(dir=self.scratch, delete=False) as file:
            return np.memmap(file.name, dtype=dtype, mode="w+", shape=shape)

    # -------------------------------------------------------------------------------- layers
    def layers(self, plan: LayerPlan) -> dict[str, Tensor]:
        """All tensors beside the tables, with the state of the dense optimiser."""
        fresh: Mapping[str, Any] = self.new.state_dict()
        moved: dict[str, Tensor] = {}
        names = [MODEL + move.was for move in plan.moves if move.was is not None]
        old = self.stored.tensors(names)
        for move in plan.moves:
            was = None if move.was is None else old[MODEL + move.was]
            moved[MODEL + move.name] = move.apply(was, fresh[move.name].detach())
            if move.was is None:
                continue
            prefix = f"{DENSE}{move.was}."
            states = [n for n in self.stored.shapes if n.startswith(prefix)]
            for name, value in self.stored.tensors(states).items():
                key = f"{DENSE}{move.name}.{name.removeprefix(prefix)}"
                is_alike = value.shape == was.shape if was is not None else False
                nothing = torch.zeros_like(fresh[move.name])
                moved[key] = move.apply(value, nothing) if is_alike and value.dim() else value
        return moved


def _zeros(rows_RD: Matrix, low: int) -> None:
    """What the state of an optimiser starts as."""
    rows_RD[:] = 0
