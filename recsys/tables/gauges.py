"""How full physical tables are, and how long their rows have become."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recsys.tables.scheme import Scheme

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.99, 1.0)


def load_factors(scheme: Scheme) -> dict[str, float | None]:
    """Ids that can reach a physical table, per row; None where there are any number of ids.

    An id of a feature counts once, however many readers and probes bring it there.

    Source: N / M of Coleman et al., Unified Embedding (2023), https://arxiv.org/abs/2305.12102,
    section 4.
    """
    namespace_of = {reader.key: reader.namespace for reader in scheme.table.readers}
    num_ids = scheme.table.num_ids_per_namespace()
    found: dict[str, float | None] = {}
    for table in scheme.physical_tables:
        namespaces = {namespace_of[x.reader] for x in scheme.lookups if x.table == table.name}
        counts = [num_ids[name] for name in namespaces]
        known = [count for count in counts if count is not None]
        found[table.name] = sum(known) / table.num_rows if len(known) == len(counts) else None
    return found


def row_norms(weight_VD: Tensor) -> tuple[tuple[float, ...], int]:
    """Lengths of the rows at `QUANTILES`, and how many rows have none: NaN or infinite numbers.

    Args:
        weight_VD: A physical table.
    """
    norms_V = weight_VD.detach().double().norm(dim=1).numpy()
    finite = norms_V[np.isfinite(norms_V)]
    values = np.quantile(finite, QUANTILES) if len(finite) else np.full(len(QUANTILES), np.nan)
    return tuple(float(value) for value in values), len(norms_V) - len(finite)
