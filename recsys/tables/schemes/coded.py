"""Codes in place of rows: each id picks a value of each part. What is left of dpq and mgqe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from features.table_spec import DPQTable, MGQETable
from recsys.tables.blocks import bounded_rows
from recsys.tables.budget import largest_size
from recsys.tables.chunks import chunk_width
from recsys.tables.codes import MAX_CHOICES, CodeLayout
from recsys.tables.logical import LogicalTable
from recsys.tables.scheme import BYTES_PER_NUMBER, Lookup, PhysicalTable, Scheme

_RARE_SHARE_OF_CHOICES = 4


@dataclass(frozen=True)
class CodeSizes:
    """What a table of codes is made of.

    Attributes:
        num_parts: P, parts of a vector.
        width: W, numbers of a part.
        num_choices: K, values of each part.
        layouts: Of the codes, by feature.
    """

    num_parts: int
    width: int
    num_choices: int
    layouts: Mapping[str, CodeLayout]

    @property
    def num_bytes(self) -> int:
        """Of codes and values, as a bundle stores them."""
        codes = sum(layout.num_bytes for layout in self.layouts.values())
        return codes + self.num_choices * self.num_parts * self.width * BYTES_PER_NUMBER


def code_sizes(table: LogicalTable, spec: DPQTable | MGQETable) -> CodeSizes:
    """As many choices as there is room for, up to 256.

    Args:
        table: The logical table.
        spec: Its rows or budget, and its parts.

    Raises:
        FeatureConfigError: the parts do not divide the width, a reader's ids are unbounded, or
            there is no room for a choice.
    """
    width = chunk_width(table, spec.num_parts, key="num_parts")
    counts = {name: block.size for name, block in bounded_rows(table).items()}

    def sizes(num_choices: int) -> CodeSizes:
        layouts = {n: _layout(spec, count, num_choices) for n, count in counts.items()}
        return CodeSizes(spec.num_parts, width, num_choices, layouts)

    def numbers_of(num_choices: int) -> int:
        return ceil(sizes(num_choices).num_bytes / BYTES_PER_NUMBER)

    return sizes(largest_size(table, numbers_of=numbers_of, most=MAX_CHOICES))


def _layout(spec: DPQTable | MGQETable, num_ids: int, num_choices: int) -> CodeLayout:
    if isinstance(spec, DPQTable):
        return CodeLayout(spec.num_parts, num_ids, num_ids, num_choices, num_choices)
    num_frequent = ceil(round(num_ids * spec.frequent_share, 6))
    num_rare_choices = ceil(num_choices / _RARE_SHARE_OF_CHOICES)
    return CodeLayout(spec.num_parts, num_ids, num_frequent, num_choices, num_rare_choices)


class CodedScheme(Scheme):
    """One physical table of the values of all parts; codes are packed bits, a buffer per feature.

    Args:
        table: The logical table.
        spec: Its rows or budget, and its parts.
    """

    def __init__(self, table: LogicalTable, *, spec: DPQTable | MGQETable) -> None:
        sizes = code_sizes(table, spec)
        num_rows = sizes.num_parts * sizes.num_choices
        physical = PhysicalTable(f"{table.name}@values", num_rows, sizes.width)
        super().__init__(
            table,
            physical_tables=(physical,),
            lookups=tuple(
                Lookup(f"{r.key}@{part}", r.key, physical.name)
                for r in table.readers
                for part in range(sizes.num_parts)
            ),
            widths={r.key: table.dim for r in table.readers},
        )
        self.sizes = sizes
        for name, layout in sizes.layouts.items():
            self.register_buffer(_buffer(name), torch.zeros(layout.num_bytes, dtype=torch.uint8))

    def row_meaning(self) -> dict[str, Any]:
        """Parts and choices; codes lie beside the values."""
        sizes = self.sizes
        return {
            "scheme": "coded",
            "num_parts": sizes.num_parts,
            "num_choices": sizes.num_choices,
        }

    def remap(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The value that the id's code picks, of each part."""
        found = {}
        for r in self.table.readers:
            layout = self.sizes.layouts[r.namespace]
            own_L = ids[r.key]
            codes_LP = layout.read(self.get_buffer(_buffer(r.namespace)), own_L)
            for part, codes_L in enumerate(codes_LP.unbind(1)):
                found[f"{r.key}@{part}"] = codes_L + part * self.sizes.num_choices
        return found

    def combine(
        self, vectors: Mapping[str, Tensor], ids: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Concatenate the parts."""
        parts = range(self.sizes.num_parts)
        return {
            r.key: torch.cat([vectors[f"{r.key}@{part}"] for part in parts], dim=1)
            for r in self.table.readers
        }

    def set_codes(self, namespace: str, codes_NP: Tensor) -> None:
        """Take over the codes of all ids of a feature."""
        self.get_buffer(_buffer(namespace)).copy_(self.sizes.layouts[namespace].pack(codes_NP))


def _buffer(namespace: str) -> str:
    return f"codes_of_{namespace}"
