"""What a sequence task asks of the feature file."""

from __future__ import annotations

from math import isfinite

from features.errors import FeatureConfigError, RunConfigError
from recsys.data.item_sequence import ItemSequence
from recsys.tables.logical import OUTPUT
from recsys.types import FieldLayout


def check_features(
    items: ItemSequence, layout: FieldLayout, *, weight: str | None, shuffle_ties: bool
) -> None:
    """Refuse what no part of the model would read, and ties that nobody knows of.

    Args:
        items: What is predicted.
        layout: Of all features.
        weight: Of the feature file.
        shuffle_ties: Whether the events of one second are to change places.

    Raises:
        FeatureConfigError: the feature file cannot serve the task.
    """
    columns = items.feature.columns
    unread = [name for name in layout.fields if name != items.item and name not in columns]
    others = [
        key for key in layout.sequences if key.split(".")[0] not in (items.feature.name, OUTPUT)
    ]
    if layout.num_dense:
        unread.append("dense features")
    leave_out = "leave events out by sources.events.where"
    mistakes = []
    if layout.labels:
        mistakes.append(
            f"label: a sequence task predicts every event, whatever its label, got "
            f"{', '.join(layout.labels)}; {leave_out}, and drop the label"
        )
    if weight is not None:
        mistakes.append(
            f"weight: a sequence task weighs all events alike, got {weight!r}; {leave_out}, and "
            f"drop the weight"
        )
    if items.feature.where:
        mistakes.append(
            f"features.{items.feature.name}.where: a sequence task predicts every event of a "
            f"user, got {items.feature.where!r}; {leave_out}"
        )
    if unread or others:
        mistakes.append(
            f"features: a sequence task reads the columns of {items.feature.name!r} alone, got "
            f"also {', '.join([*unread, *others])}; name them in its `of`, or drop them from the "
            f"feature file"
        )
    if shuffle_ties and items.time_key is None:
        mistakes.append(
            f"features.{items.feature.name}: ties can be shuffled only where times are known, "
            f"got no `times`; add `times: COLUMN` to the sequence, or drop model.shuffle_ties"
        )
    if mistakes:
        raise FeatureConfigError(mistakes)


def check_prefixes(widths: tuple[int, ...], weights: tuple[float, ...], *, width: int) -> None:
    """Refuse widths that are none of the first numbers of a vector, and weights that are none.

    Args:
        widths: At which vectors are to serve alone.
        weights: Of the losses there.
        width: Of vectors.

    Raises:
        RunConfigError: with all that are wrong.
    """
    mistakes = []
    if len({*widths}) < len(widths) or not all(1 <= w < width for w in widths):
        mistakes.append(
            f"model.prefix_widths: must be different widths below that of the items, got "
            f"{[*widths]}; allowed 1 to {width - 1}; give others"
        )
    if len(weights) not in (0, len(widths)) or not all(isfinite(w) and w > 0 for w in weights):
        mistakes.append(
            f"model.prefix_weights: must be a number above 0 for each of prefix_widths, got "
            f"{[*weights]} for {[*widths]}; give as many, or leave them out"
        )
    if mistakes:
        raise RunConfigError(mistakes)
