"""What schemes do to their tables after each step of the optimiser, and before anybody looks."""

from __future__ import annotations

from collections.abc import Iterator

from recsys.tables.embedder import Embedder
from recsys.tables.plan import local_parts, sharded_weights
from recsys.tables.scheme import AfterStep, BeforeView, Part, Scheme


def after_steps(embedder: Embedder) -> tuple[AfterStep, ...]:
    """What to call after each step, sharded or not; nothing for most schemes.

    Args:
        embedder: Holds the values that training begins with, or goes on from.
    """
    found = [scheme.after_steps(parts) for scheme, parts in parts_of(embedder)]
    return tuple(each for each in found if each is not None)


def before_views(embedder: Embedder) -> tuple[BeforeView, ...]:
    """What to call before tables are evaluated or saved; nothing for most schemes.

    Args:
        embedder: As `after_steps` gets it.
    """
    found = [scheme.before_views(parts) for scheme, parts in parts_of(embedder)]
    return tuple(each for each in found if each is not None)


def parts_of(embedder: Embedder) -> Iterator[tuple[Scheme, list[Part]]]:
    """What this rank holds of each scheme's tables, to be changed in place.

    Args:
        embedder: Sharded or not.
    """
    weights = {**embedder.replicated.weights, **dict(sharded_weights(embedder))}
    for scheme in embedder.schemes.values():
        assert isinstance(scheme, Scheme)
        yield (
            scheme,
            [
                Part(table, values.detach(), row, column)
                for table in scheme.physical_tables
                for values, row, column in local_parts(weights[table.name])
            ],
        )
