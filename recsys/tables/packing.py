"""The tensors of an embedder as a bundle stores them: each scheme in its own form."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from recsys.tables.embedder import Embedder
from recsys.tables.scheme import Scheme

_TABLES = "replicated.weights."


def packed(embedder: Embedder) -> dict[str, Tensor]:
    """What `unpack_into` fills an embedder of a bundle with.

    Args:
        embedder: All of its tables are replicated.
    """
    tensors: dict[str, Tensor] = {}
    for scheme in _schemes(embedder):
        weights = {t.name: embedder.replicated.weights[t.name] for t in scheme.physical_tables}
        served, tables = scheme.served({name: w.detach() for name, w in weights.items()})
        tensors |= served.state_dict(prefix=f"schemes.{scheme.table.name}.")
        tensors |= {_TABLES + name: tensor for name, tensor in served.packed(tables).items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def unpack_into(embedder: Embedder, tensors: Mapping[str, Tensor]) -> None:
    """Fill an embedder of a bundle, whose tables are all replicated."""
    state = {name: t for name, t in tensors.items() if not name.startswith(_TABLES)}
    stored = {n.removeprefix(_TABLES): t for n, t in tensors.items() if n.startswith(_TABLES)}
    for scheme in _schemes(embedder):
        state |= {_TABLES + name: tensor for name, tensor in scheme.unpacked(stored).items()}
    embedder.load_state_dict(state)


def _schemes(embedder: Embedder) -> list[Scheme]:
    return [scheme for scheme in embedder.schemes.values() if isinstance(scheme, Scheme)]
