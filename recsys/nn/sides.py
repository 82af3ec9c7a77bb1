"""What else is known of an event, added to the vector of its item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from recsys.nn.segments import Segment, label_linear, name_after, reads
from recsys.types import FieldLayout


class SideProjections(nn.Module):
    """Brings each further column of a sequence to the items' width.

    Args:
        keys: The columns.
        layout: Their widths.
        width: D, of the items.
    """

    def __init__(self, keys: Sequence[str], layout: FieldLayout, *, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {_name(key): nn.Linear(layout.sequences[key], width, bias=False) for key in keys}
        )
        name_after(self.projections, {_name(key): key for key in keys})
        for key in keys:
            segment = Segment((key,), layout.sequences[key])
            label_linear(self.projections[_name(key)], reads=reads([segment]))

    def forward(self, tokens_LD: Tensor, sides: Mapping[str, Tensor]) -> Tensor:
        """The tokens and their sides, summed."""
        for key, vectors_LW in sides.items():
            tokens_LD = tokens_LD + self.projections[_name(key)](vectors_LW)
        return tokens_LD


def _name(key: str) -> str:
    """A key as torch's containers allow it."""
    return key.replace(".", "_")
