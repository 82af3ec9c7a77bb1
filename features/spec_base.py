"""What all types of a feature file share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = str | int | float | bool


class Spec(BaseModel):
    """Base of everything in a feature file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,  # "16" is no number and 1 no boolean
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
