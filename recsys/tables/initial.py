"""First values of table rows: a function of (seed, table, row, column), whatever the sharding."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.tables.hashing import salt, uniform_pm1
from recsys.tables.scheme import PhysicalTable

# Filled at a time, so that the counters stay in a core's cache: 2^22 take seven times as long.
_NUMBERS_PER_CHUNK = 1 << 17


def initial_rows(table: PhysicalTable, *, seed: int) -> Tensor:
    """The whole table, (V, D) float32.

    It is as it was given, or else uniform around its mean, and on its grid if it has one.
    """
    weight_VD = torch.empty(table.num_rows, table.dim)
    fill_initial(weight_VD, table, seed=seed, first_row=0, first_column=0)
    return weight_VD


def fill_initial(
    weight: Tensor, table: PhysicalTable, *, seed: int, first_row: int, first_column: int
) -> None:
    """Fill a part of a table in place, with what the whole table has there.

    Args:
        weight: The part, (rows, columns).
        table: The table it belongs to.
        seed: Of the run's tables.
        first_row: Place of the part in the table.
        first_column: Place of the part in the table.
    """
    if table.first_values is not None:
        last_row, last_column = first_row + weight.shape[0], first_column + weight.shape[1]
        given = table.first_values[first_row:last_row, first_column:last_column]
        with torch.no_grad():
            weight.copy_(given)
        return
    start, rounding = salt("initial", seed, table.name), salt("rounding", seed, table.name)
    columns = torch.arange(first_column, first_column + weight.shape[1], device=weight.device)
    chunk = max(1, _NUMBERS_PER_CHUNK // max(1, weight.shape[1]))
    with torch.no_grad():
        for low in range(0, weight.shape[0], chunk):
            high = min(low + chunk, weight.shape[0])
            rows = torch.arange(first_row + low, first_row + high, device=weight.device)
            places = rows[:, None] * table.dim + columns
            values = uniform_pm1(places + start) * table.init_bound + table.init_mean
            if table.grid is not None:
                values = table.grid.first_rows(values, places + rounding)
            weight[low:high] = values
