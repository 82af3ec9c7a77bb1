"""The perceptron that reads a target, its history and their product."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.nn.batch_norm import BatchNorm
from recsys.nn.segments import Segment, gives, label_linear, label_norm, reads

_SLOPE = 0.1


class HistoryHead(nn.Module):
    """Batch norm (if asked), layers of Linear and PReLU, and a linear one to the logits.

    Args:
        in_width: Width of the input.
        widths: Width of each hidden layer.
        num_labels: T.
        batch_norm: Whether the input is normalised over the batch.

    Source: the code of Feng et al., DARE (2025), which ends in two logits and a softmax; one logit
    with a sigmoid is the same.
    """

    def __init__(
        self, in_width: int, *, widths: Sequence[int], num_labels: int, batch_norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [BatchNorm(in_width)] if batch_norm else []
        for width in widths:
            layers += [nn.Linear(in_width, width), nn.PReLU(init=_SLOPE)]
            in_width = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_width, num_labels))

    def label_inputs(self, segments: Sequence[Segment], *, logits: Sequence[Segment]) -> None:
        """Say what the input and the logits are made of."""
        first, *_ = linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        if isinstance(self.layers[0], BatchNorm):
            label_norm(self.layers[0], segments)
        label_linear(first, reads=reads(segments))
        label_linear(
            linear[-1],
            reads=reads(segments) if linear[-1] is first else None,
            gives=gives(logits),
        )

    def forward(self, inputs_BC: Tensor) -> Tensor:
        """Give logits_BT."""
        return self.layers(inputs_BC)
