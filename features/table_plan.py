"""What training found out about a table: which ids keep what, and the values it starts from.

A stage of training writes a plan to a file beside the next stage's feature file, whose table reads
it. Ids are encoded ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import FeatureConfigError
from features.permissions import give_usual_mode, refused_by_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
_METADATA = "plan"
_KEPT, _FIRST = "kept.", "first."


@dataclass(frozen=True, eq=False)
class TablePlan:
    """How a table is cut down.

    Attributes:
        scheme: Of the table that reads it.
        kept: What of the ids is kept, by a name of the scheme's choice.
        first_values: Numbers that training begins with, by physical table; a schema is saved
            without them, beside trained ones.
        ids: What the ids mean, see `features.fingerprint.fingerprint_ids`; empty before anybody
            has said.
    """

    scheme: str
    kept: Mapping[str, NDArray[Any]]
    first_values: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    ids: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all but the first values: plans of one digest send ids to the same rows."""
        hasher = hashlib.sha256(json.dumps([self.scheme, self.ids]).encode())
        for name in sorted(self.kept):
            array = self.kept[name]
            hasher.update(json.dumps([name, str(array.dtype), array.shape]).encode())
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def without_first_values(self) -> TablePlan:
        """What a trained table still needs."""
        return replace(self, first_values={})


def write_plan(plan: TablePlan, path: Path) -> None:
    """Write a plan; it appears under its name only when complete."""
    import numpy as np
    from safetensors.numpy import save_file

    named = {_KEPT + name: array for name, array in plan.kept.items()}
    named |= {_FIRST + name: array for name, array in plan.first_values.items()}
    described = {"scheme": plan.scheme, "ids": plan.ids, "digest": plan.digest, "format": FORMAT}
    # One entry: those of safetensors are written in any order.
    metadata = {_METADATA: json.dumps(described)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file({n: np.asarray(a, order="C") for n, a in named.items()}, unfinished, metadata)
    give_usual_mode(unfinished)
    unfinished.replace(path)


@refused_by_name(FeatureConfigError)
def read_plan(path: Path) -> TablePlan:
    """Read a plan.

    Raises:
        FeatureConfigError: there is none, or it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    mend = "write it again with `python -m recsys search`"
    if not path.is_file():
        raise FeatureConfigError(f"{path}: is no file, and a table reads its plan there; {mend}")
    path.open("rb").close()  # which says why, where it cannot be read
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FeatureConfigError(f"{path}: is no plan of a table, got {error}; {mend}") from None
    if metadata.get("format") != FORMAT:
        raise FeatureConfigError(
            f"{path}: plan of an unknown format, got {metadata.get('format')}; allowed {FORMAT}; "
            f"{mend}"
        )
    plan = TablePlan(
        scheme=metadata["scheme"],
        kept=_under(_KEPT, found),
        first_values=_under(_FIRST, found),
        ids=metadata["ids"],
    )
    if plan.digest != metadata["digest"]:
        raise FeatureConfigError(f"{path}: contents were changed; {mend}")
    return plan


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
