"""The perceptron that most rankers end in.

B examples · C input width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.nn.batch_norm import BatchNorm
from recsys.nn.segments import Segment, gives, label_linear, label_norm, reads


class MLP(nn.Module):
    """Layers of Linear, batch norm (if asked), ReLU, dropout (if asked).

    Args:
        in_width: Width of the input.
        widths: Width of each layer; without any the input passes through.
        dropout: Share of activations set to zero after each ReLU.
        batch_norm: Whether each linear layer is followed by batch normalisation.

    Attributes:
        out_width: Width of the output.
    """

    def __init__(
        self,
        in_width: int,
        *,
        widths: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers.append(nn.Linear(in_width, width))
            if batch_norm:
                layers.append(BatchNorm(width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            in_width = width
        self.layers = nn.Sequential(*layers)
        self.out_width = in_width

    def label_inputs(
        self, segments: Sequence[Segment], *, output: Segment | None = None
    ) -> tuple[Segment, ...]:
        """Say what the input is made of; gives what the output is made of.

        Args:
            segments: Of the input.
            output: What the output is, where its width follows from the layout too.
        """
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        if not linear:
            return tuple(segments)
        outputs = [None] * (len(linear) - 1) + [gives([output]) if output else None]
        inputs = [reads(segments)] + [None] * (len(linear) - 1)
        for layer, read, given in zip(linear, inputs, outputs, strict=True):
            label_linear(layer, reads=read, gives=given)
        norms = [layer for layer in self.layers if isinstance(layer, BatchNorm)]
        if norms and output:
            label_norm(norms[-1], [output])
        return (output or Segment(("@mlp",), self.out_width),)

    def forward(self, inputs_BC: Tensor) -> Tensor:
        """Give the activations of the last layer."""
        return self.layers(inputs_BC)
