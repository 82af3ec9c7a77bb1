"""What schemes do to their tables after each step of the optimiser."""

from __future__ import annotations

from recsys.tables.embedder import Embedder
from recsys.tables.plan import local_parts, sharded_weights
from recsys.tables.scheme import AfterStep, Part, Scheme


def after_steps(embedder: Embedder) -> tuple[AfterStep, ...]:
    """What to call after each step, sharded or not; nothing for most schemes.

    Args:
        embedder: Holds the values that training begins with, or goes on from.
    """
    weights = {**embedder.replicated.weights, **dict(sharded_weights(embedder))}
    found = []
    for scheme in embedder.schemes.values():
        assert isinstance(scheme, Scheme)
        parts = [
            Part(table, values.detach(), row, column)
            for table in scheme.physical_tables
            for values, row, column in local_parts(weights[table.name])
        ]
        found.append(scheme.after_steps(parts))
    return tuple(each for each in found if each is not None)
