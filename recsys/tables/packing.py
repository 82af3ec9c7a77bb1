"""The tensors of an embedder as a bundle stores them: each scheme in its own form.

Tables whose scheme stores them as they are, row for row, may have fewer bits. Sparse tables and
those on a grid have a form of their own, and arrays and networks have no rows: these are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor

from features.errors import CheckpointMismatchError
from recsys.tables.embedder import Embedder
from recsys.tables.few_bits import FewBitRows, HalfRows, TableDType, stored_dtype
from recsys.tables.scheme import Scheme

_TABLES, _SCALES, _OFFSETS = "replicated.weights.", "scales.", "offsets."
_MOST = torch.finfo(torch.float16).max


def packed(embedder: Embedder, *, dtype: TableDType = "fp32") -> dict[str, Tensor]:
    """What `unpack_into` fills an embedder of a bundle with.

    Args:
        embedder: All of its tables are replicated.
        dtype: Of tables that are stored row for row.

    Raises:
        CheckpointMismatchError: tables hold numbers that have no form of so few bits.
    """
    return {n: t for of_table in packed_tables(embedder, dtype=dtype).values() for n, t in of_table}


def packed_tables(
    embedder: Embedder, *, dtype: TableDType
) -> dict[str, tuple[tuple[str, Tensor], ...]]:
    """Names and tensors of `packed`, by logical table."""
    found, mistakes = {}, []
    for scheme in _schemes(embedder):
        weights = {t.name: embedder.replicated.weights[t.name] for t in scheme.physical_tables}
        served, tables = scheme.served({name: w.detach() for name, w in weights.items()})
        tensors = served.state_dict(prefix=f"schemes.{scheme.table.name}.")
        shapes = {table.name: (table.num_rows, table.dim) for table in served.physical_tables}
        for name, tensor in served.packed(tables).items():
            is_by_row = tensor.is_floating_point() and tensor.shape == shapes.get(name)
            fitting = stored_dtype(tensor.shape[1], dtype) if is_by_row else "fp32"
            if fitting != "fp32" and not bool((tensor.abs() <= _MOST).all()):
                mistakes.append(
                    f"tables.{scheme.table.name}: holds numbers that {dtype} has no form for, got "
                    f"{tensor.abs().max():g}; allowed up to {_MOST:g}; export with "
                    f"--table-dtype fp32, and see why training went there"
                )
                continue
            tensors |= _row_tensors(name, tensor, fitting)
        found[scheme.table.name] = tuple((n, t.contiguous()) for n, t in tensors.items())
    if mistakes:
        raise CheckpointMismatchError(mistakes)
    return found


def unpack_into(embedder: Embedder, tensors: Mapping[str, Tensor]) -> None:
    """Fill an embedder of a bundle, whose tables are all replicated.

    Rows of few bits stay as they are, and are brought to 32 bits when they are looked up.
    """
    beside = (_TABLES, _SCALES, _OFFSETS)
    state = {name: t for name, t in tensors.items() if not name.startswith(beside)}
    stored = {n.removeprefix(_TABLES): t for n, t in tensors.items() if n.startswith(_TABLES)}
    for scheme in _schemes(embedder):
        tables = {table.name: table for table in scheme.physical_tables}
        held = {
            name: rows
            for name, table in tables.items()
            if (rows := _held(name, tensors, width=table.dim)) is not None
        }
        for name, rows in held.items():
            embedder.replicated.hold(name, rows)
        # A scheme with a form of its own has none that are held.
        kept = {n: stored[n] for n in tables if n not in held}
        whole = kept if held else scheme.unpacked(stored)
        state |= {_TABLES + name: tensor for name, tensor in whole.items()}
    # Not copied: a table that were, would be in memory twice.
    embedder.load_state_dict(state, assign=True)


def _held(name: str, tensors: Mapping[str, Tensor], *, width: int) -> FewBitRows | HalfRows | None:
    """Rows of fewer than 32 bits; None where there are none."""
    if _SCALES + name in tensors:
        codes_RC, scales_R1 = tensors[_TABLES + name], tensors[_SCALES + name]
        return FewBitRows(codes_RC, scales_R1, tensors[_OFFSETS + name], width=width)
    values = tensors.get(_TABLES + name)
    if values is not None and values.dtype == torch.float16:
        return HalfRows(values)
    return None


def _row_tensors(name: str, values: Tensor, dtype: TableDType) -> dict[str, Tensor]:
    match dtype:
        case "fp32":
            return {_TABLES + name: values}
        case "fp16":
            return {_TABLES + name: values.half()}
        case "int8" | "int4":
            rows = FewBitRows.nearest(values, bits=8 if dtype == "int8" else 4)
            return {
                _TABLES + name: rows.codes_RC,
                _SCALES + name: rows.scales_R1,
                _OFFSETS + name: rows.offsets_R1,
            }
        case _:
            assert_never(dtype)


def _schemes(embedder: Embedder) -> list[Scheme]:
    return [scheme for scheme in embedder.schemes.values() if isinstance(scheme, Scheme)]
