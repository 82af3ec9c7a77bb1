"""Which part of a structure each feature may reach: all of it, or a block of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.errors import FeatureConfigError
from recsys.tables.logical import LogicalTable


@dataclass(frozen=True)
class Block:
    """Rows, or single numbers, `first` ... `first + size - 1`."""

    first: int
    size: int


def blocks(
    table: LogicalTable, size: int, *, multiplexed: bool, least: int = 1, unit: str = "rows"
) -> dict[str, Block]:
    """The block of each feature that has ids of its own.

    Args:
        table: Read by the features.
        size: Of the structure.
        multiplexed: Whether all features share all of it; else blocks are in proportion to the
            features' ids and add up to the whole, as the separate tables of Coleman et al.,
            Unified Embedding (2023), https://arxiv.org/abs/2305.12102.
        least: Size of the smallest block.
        unit: What blocks are of, `rows` or `numbers`.

    Raises:
        FeatureConfigError: features of unknown cardinality want blocks of their own, or the
            structure is too small for all of them.
    """
    num_ids = table.num_ids_per_namespace()
    is_shared = multiplexed or len(num_ids) == 1
    if size < (needed := least if is_shared else least * len(num_ids)):
        blocks_of = "" if is_shared else f", {least} for each of its {len(num_ids)} features"
        raise FeatureConfigError(
            f"tables.{table.name}: is too small, got {size} {unit}; allowed {needed} and "
            f"more{blocks_of}; raise rows or budget"
        )
    if is_shared:
        return dict.fromkeys(num_ids, Block(0, size))
    unbounded = [name for name, count in num_ids.items() if count is None]
    if unbounded:
        raise FeatureConfigError(
            f"tables.{table.name}: a {table.spec.scheme} table read by several features gives each "
            f"its share of the rows, got features of unknown cardinality: {', '.join(unbounded)}; "
            f"give their hash encoding a size, or take a unified table"
        )
    # By first names: they break ties, which renaming a feature must not turn round.
    names = table.salt_names()
    found = _proportional({names[n]: count or 0 for n, count in num_ids.items()}, size, least)
    return {name: found[names[name]] for name in num_ids}


def own_rows(table: LogicalTable) -> dict[str, Block] | None:
    """A block with a row for every id of each feature; None where some have any number of ids."""
    found, first = {}, 0
    for name, count in table.num_ids_per_namespace().items():
        if count is None:
            return None
        found[name] = Block(first, count)
        first += count
    return found


def bounded_rows(table: LogicalTable) -> dict[str, Block]:
    """A block with a row for every id of each feature.

    Raises:
        FeatureConfigError: a feature has any number of ids.
    """
    own = own_rows(table)
    if own is None:
        unbounded = [n for n, count in table.num_ids_per_namespace().items() if count is None]
        raise FeatureConfigError(
            f"tables.{table.name}: a {table.spec.scheme} table needs a bounded number of ids, got "
            f"feature {unbounded[0]!r} with a hash encoding of no size; give the encoding a size, "
            f"or take a hash or unified table"
        )
    return own


def as_lists(of_features: Mapping[str, Block]) -> dict[str, list[int]]:
    """Blocks as JSON."""
    return {name: [block.first, block.size] for name, block in of_features.items()}


def _proportional(counts: Mapping[str, int], size: int, least: int) -> dict[str, Block]:
    total, left = sum(counts.values()), size
    sizes: dict[str, int] = {}
    # From the smallest on, so that rounding up is paid by the largest feature.
    for position, name in enumerate(sorted(counts, key=lambda n: (counts[n], n))):
        others = len(counts) - position - 1
        share = round(counts[name] * size / total)
        sizes[name] = left if others == 0 else max(least, min(share, left - least * others))
        left -= sizes[name]
    found, first = {}, 0
    for name in counts:
        found[name] = Block(first, sizes[name])
        first += sizes[name]
    return found
