"""Quotient and remainder: the product of two rows, whose pair tells all ids apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

from features.table_spec import QRTable
from recsys.tables.blocks import blocks, own_rows
from recsys.tables.budget import rows_for
from recsys.tables.hashing import hash_to_rows, salt
from recsys.tables.logical import LogicalTable, Reader
from recsys.tables.readers import concatenate, spread
from recsys.tables.scheme import Lookup, PhysicalTable, Scheme


@dataclass(frozen=True)
class _Split:
    """Rows of quotients and of remainders that a feature may reach.

    Codes are 0 ... quotients * remainders - 1; a code's rows are its quotient and its remainder
    by the number of remainders. The code of an id is (id + first_id) * step modulo the number of
    codes, which tells ids apart, or a hash of the id where there are too many ids for that.
    """

    first_quotient: int
    num_quotients: int
    first_remainder: int
    num_remainders: int
    first_id: int
    step: int
    """0: the code is a hash."""


class QRScheme(Scheme):
    """Element-wise product of a quotient's row and a remainder's row.

    Args:
        table: The logical table.
        spec: Its rows or budget.

    Raises:
        FeatureConfigError: there is no room for two rows for each structure.

    Source: Shi et al., Compositional Embeddings (2020), https://arxiv.org/abs/1909.02107, section
    3. As many remainders as have room, as in Hetu (2024), https://arxiv.org/abs/2311.15578.

    Differs from the paper: quotients start around 1, so that products start with the variance of
    the remainders; and features that share all rows spread their ids over all codes.
    """

    combines_linearly = False
    plan_R7: Tensor

    def __init__(self, table: LogicalTable, *, spec: QRTable) -> None:
        num_rows = rows_for(table)
        self.splits = _splits(table, num_rows, multiplexed=spec.multiplexed)
        ends = self.splits.values()
        names = quotient, remainder = f"{table.name}@quotient", f"{table.name}@remainder"
        super().__init__(
            table,
            physical_tables=(
                PhysicalTable(
                    quotient,
                    max(s.first_quotient + s.num_quotients for s in ends),
                    table.dim,
                    init_mean=1.0,
                ),
                PhysicalTable(
                    remainder, max(s.first_remainder + s.num_remainders for s in ends), table.dim
                ),
            ),
            lookups=tuple(
                Lookup(f"{r.key}@{name.partition('@')[2]}", r.key, name)
                for r in table.readers
                for name in names
            ),
            widths={r.key: table.dim for r in table.readers},
        )
        self.spec = spec
        plan = [self._plan(r) for r in table.readers]
        plan_R7 = torch.tensor(plan, dtype=torch.int64)
        self.register_buffer("plan_R7", plan_R7, persistent=False)

    def _plan(self, reader: Reader) -> tuple[int, ...]:
        split = self.splits[reader.namespace]
        return (
            salt("qr", self.spec.seed, reader.salt_name),
            split.first_id,
            split.step,
            split.first_quotient,
            split.first_remainder,
            split.num_remainders,
            split.num_quotients * split.num_remainders,
        )

    def row_meaning(self) -> dict[str, Any]:
        """Splits, and the seed of hashes."""
        splits = {name: list(vars(split).values()) for name, split in self.splits.items()}
        is_hashed = any(split.step == 0 for split in self.splits.values())
        return {"scheme": "qr", "seed": self.spec.seed if is_hashed else None, "splits": splits}

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quotient and remainder of the code."""
        keys = [r.key for r in self.table.readers]
        values, counts = concatenate(ids, keys)
        salts, first_id, step, first_quotient, first_remainder, divisor, num_codes = spread(
            self.plan_R7, counts
        )
        stepped = (values + first_id) * step % num_codes
        codes = torch.where(step > 0, stepped, hash_to_rows(values, salts, num_codes))
        quotients = first_quotient + codes // divisor
        remainders = first_remainder + codes % divisor
        found = {}
        for name, rows in (("quotient", quotients), ("remainder", remainders)):
            found |= zip([f"{key}@{name}" for key in keys], rows.split(counts), strict=True)
        return found

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The product."""
        return {
            r.key: vectors[f"{r.key}@quotient"] * vectors[f"{r.key}@remainder"]
            for r in self.table.readers
        }


def _splits(table: LogicalTable, num_rows: int, *, multiplexed: bool) -> dict[str, _Split]:
    num_ids = table.num_ids_per_namespace()
    of_features = blocks(table, num_rows, multiplexed=multiplexed, least=2)
    own = own_rows(table)
    splits, first_quotient, first_remainder = {}, 0, 0
    for name, count in num_ids.items():
        if multiplexed:  # one code for all
            count = None if own is None else sum(block.size for block in own.values())
        num_quotients, num_remainders, tells_apart = _sizes(count, of_features[name].size)
        num_codes = num_quotients * num_remainders
        is_spread = tells_apart and multiplexed and len(num_ids) > 1
        splits[name] = _Split(
            first_quotient,
            num_quotients,
            first_remainder,
            num_remainders,
            first_id=own[name].first if own is not None and is_spread else 0,
            step=_step(num_codes) if is_spread else int(tells_apart),
        )
        if not multiplexed:
            first_quotient += num_quotients
            first_remainder += num_remainders
    return splits


def _step(num_codes: int) -> int:
    """A step through all codes in leaps: coprime to their number, near the golden section of it."""
    step = max(1, round(num_codes * 0.618))
    while gcd(step, num_codes) > 1:
        step += 1
    return step


def _sizes(num_ids: int | None, num_rows: int) -> tuple[int, int, bool]:
    """Quotients, remainders, and whether their pairs tell all ids apart.

    The most remainders that leave room for the quotients: ids then share as few rows as may be.
    """
    if num_ids is not None:
        for num_remainders in range(min(num_rows - 1, num_ids), 0, -1):
            num_quotients = -(-num_ids // num_remainders)
            if num_quotients + num_remainders <= num_rows:
                return num_quotients, num_remainders, True
            if num_remainders * num_remainders < num_ids:
                break  # fewer remainders need more rows
    return num_rows - num_rows // 2, num_rows // 2, False
