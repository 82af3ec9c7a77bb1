"""Ways to store the same tables, and the feature file of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, get_args

from ruamel.yaml import YAML

from features.errors import FeatureConfigError, RunConfigError, did_you_mean
from features.load import parse_feature_set
from features.sizes import parse_bytes
from features.table_spec import PlannedTable, SizedTable, StagedTable, StoredTable, TableBase

_SPECS: Mapping[str, type[TableBase]] = {
    get_args(spec.model_fields["scheme"].annotation)[0]: spec
    for spec in get_args(get_args(StoredTable)[0])
}


@dataclass(frozen=True)
class Variant:
    """A scheme with its options, as `pq` or `pq:num_chunks=2,multiplexed=false`.

    Attributes:
        text: As it was written.
        scheme: Its name.
        options: Further keys of the table.
    """

    text: str
    scheme: str
    options: Mapping[str, Any] = field(hash=False)

    @property
    def has_size(self) -> bool:
        """Whether its size is a choice; a full table has as many rows as there are ids."""
        return issubclass(_SPECS.get(self.scheme, SizedTable), SizedTable)

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read one from the command line.

        Raises:
            RunConfigError: it has not that form, or is not trained at once.
        """
        scheme, _, rest = text.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
        if not scheme or any(not key or not sign for key, sign, _ in pairs):
            raise RunConfigError(
                f"--schemes: is no scheme with options, got {text!r}; allowed SCHEME or "
                f"SCHEME:KEY=VALUE,KEY=VALUE; write for example pq:num_chunks=2"
            )
        if issubclass(_SPECS.get(scheme, TableBase), StagedTable | PlannedTable):
            raise RunConfigError(
                f"--schemes: is trained in several stages, got {scheme}; allowed schemes of one "
                f"training; run `python -m recsys search` and compare what it prints"
            )
        yaml = YAML(typ="safe", pure=True)
        return cls(text, scheme, {key: yaml.load(value) for key, _, value in pairs})


def check_budgets(budgets: Sequence[str]) -> None:
    """Check that all are sizes in bytes.

    Raises:
        RunConfigError: with those that are not.
    """
    mistakes = []
    for budget in budgets:
        try:
            parse_bytes(budget)
        except ValueError as error:
            mistakes.append(f"--budgets: {error}")
    if mistakes:
        raise RunConfigError(mistakes)


def feature_file(
    text: str, *, name: str, variant: Variant, budget: str | None, tables: Sequence[str] | None
) -> str:
    """The feature file with some of its tables stored otherwise.

    Args:
        text: Of the feature file.
        name: What messages call it.
        variant: How to store the tables.
        budget: Bytes of each of them. None: of a full table, which has no choice.
        tables: Which ones. None: all that have a name and are not decoupled.

    Raises:
        FeatureConfigError: the result is no feature file.
        RunConfigError: a table does not exist or is decoupled, or there is none.
    """
    yaml = YAML()  # keeps comments and order
    content = yaml.load(text)
    named = content.get("tables") or {}
    # Two tables in one, each with a scheme of its own.
    whole = [table for table, spec in named.items() if spec.get("scheme") != "decoupled"]
    chosen = whole if tables is None else tables
    mistakes = [
        f"--tables: is no table of {name} that is stored by one scheme, got {table!r}; allowed "
        f"{', '.join(whole) or 'none'}{did_you_mean(table, whole)}"
        for table in chosen
        if table not in whole
    ]
    if not whole:
        mistakes = [
            f"{name}: names no table that could be stored otherwise; add `tables: {{shared: "
            f"{{scheme: unified, rows: 1000}}}}` and `table: shared` to features"
        ]
    if mistakes:
        raise RunConfigError(mistakes)
    for table in chosen:
        kept = {key: value for key, value in named[table].items() if key == "dim"}
        size = {} if budget is None else {"budget": budget}
        named[table] = {"scheme": variant.scheme, **kept, **size, **variant.options}
    written = StringIO()
    yaml.dump(content, written)
    try:
        parse_feature_set(written.getvalue(), name=name)
    except FeatureConfigError as error:
        raise FeatureConfigError(f"{variant.text}: {m}" for m in error.mistakes) from None
    return written.getvalue()
