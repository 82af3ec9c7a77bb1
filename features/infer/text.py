"""A proposal as the text of a feature file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from features.infer.feature import FeatureLine, LeftOut
from features.infer.files import Attributes
from features.infer.names import yaml_quoted, yaml_text
from features.infer.proposal import Proposal

_WIDTH = 100
_MOST_LEFT_OUT = 30


def feature_text(proposal: Proposal) -> str:
    """The whole file; comments say what was guessed and what was left out."""
    sections = (
        _header(proposal),
        _sources(proposal),
        _entity(proposal),
        _label(proposal),
        [_with_comment(f"split: {proposal.split[0]}", proposal.split[1])],
        [f"defaults: {{dim: {proposal.dim}}}"],
        _tables(proposal),
        ["features:", *_features(proposal.features)],
        _left_out(proposal.left_out),
    )
    return "\n".join(line for lines in sections for line in lines) + "\n"


def _header(proposal: Proposal) -> list[str]:
    what = "events" if proposal.task == "ranking" else "events, for the next item of each user"
    looked = len(proposal.events.sample)
    sample = "all of them" if looked == proposal.events.num_rows else f"{looked:,} of them"
    text = (
        f"{', '.join(file.name for file in proposal.events.files)}: "
        f"{proposal.events.num_rows:,} {what}. Written by `python -m recsys init`, which looked at "
        f"{sample}; read every `guess` before you rely on it."
    )
    return [f"# {line}" for line in wrap(text, _WIDTH - 2)]


def _sources(proposal: Proposal) -> list[str]:
    root = proposal.data_dir
    paths = [_path(file, root) for file in proposal.events.files]
    path = paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]"
    settings = [("path", path)]
    if proposal.where is not None:
        settings.append(("where", yaml_text(proposal.where)))
    if proposal.file_column is not None:
        settings.append(("file_column", proposal.file_column))
    is_plain = len(settings) == 1
    events = path if is_plain else "{" + ", ".join(f"{k}: {v}" for k, v in settings) + "}"
    comment = "events without user, item or time are left out" if proposal.where else ""
    lines = [_with_comment(f"  events: {events}", comment)]
    return ["sources:", *lines, *(_attributes(joined, root) for joined in proposal.attributes)]


def _attributes(joined: Attributes, root: Path) -> str:
    [file] = joined.table.files
    line = f"  {joined.table.name}: {{path: {_path(file, root)}, on: {yaml_text(joined.key)}}}"
    missing = f"lacks the key of {joined.num_unmatched:,} events" if joined.num_unmatched else ""
    return _with_comment(line, missing)


def _path(file: Path, root: Path) -> str:
    return yaml_text(file.resolve().relative_to(root).as_posix())


def _entity(proposal: Proposal) -> list[str]:
    parts, doubts = [], []
    for role, found in (("user", proposal.user), ("item", proposal.item)):
        if found is not None:
            parts.append(f"{role}: {yaml_text(found.column)}")
            doubts += [f"{role} is {found.doubt}"] if found.doubt else []
    time = proposal.time
    if time is not None:
        column = yaml_text(time.column)
        parts.append(f"time: {{column: {column}, unit: {time.unit}}}" if time.unit else
                     f"time: {column}")  # fmt: skip
        doubts += [f"time {time.doubt}" if time.doubt else ""]
    if not parts:
        return []
    doubt = "; ".join(d for d in doubts if d)
    return [_with_comment(f"entity: {{{', '.join(parts)}}}", f"guess: {doubt}" if doubt else "")]


def _label(proposal: Proposal) -> list[str]:
    label = proposal.label
    if label is None:
        return []
    parts = [f"name: {yaml_text(label.name)}"]
    parts += [f"expr: {yaml_quoted(label.expr)}"] if label.expr is not None else []
    parts += [f"where: {yaml_quoted(label.where)}"] if label.where is not None else []
    comment = f"guess: {label.doubt}" if label.doubt else ""
    return [_with_comment(f"label: {{{', '.join(parts)}}}", comment)]


def _tables(proposal: Proposal) -> list[str]:
    if not proposal.tables:
        return []
    comment = "guess: more rows, fewer ids that share one"
    lines = (f"  {name}: {table}" for name, table in proposal.tables.items())
    return ["tables:", *(_with_comment(line, comment) for line in lines)]


def _features(features: Sequence[FeatureLine]) -> list[str]:
    """Neighbours that are alike share a line."""
    lines = []
    for (settings, comment), group in groupby(features, key=lambda f: (f.settings, f.comment)):
        names = [yaml_text(feature.name) for feature in group]
        is_alike = len(names) > 1
        first = f"names: [{', '.join(names)}]" if is_alike else f"name: {names[0]}"
        rest = ", ".join(f"{key}: {value}" for key, value in settings)
        line = f"  - {{{first}, {rest}}}"
        if len(line) > _WIDTH and is_alike:
            inner = wrap(first, _WIDTH - 6, break_long_words=False, break_on_hyphens=False)
            lines.append(f"  - {{{inner[0]}")
            lines += [f"     {part}" for part in inner[1:]]
            lines[-1] = _with_comment(f"{lines[-1]}, {rest}}}", comment)
        else:
            lines.append(_with_comment(line, comment))
    return lines


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    """Columns by the reason."""
    reasons: dict[str, list[str]] = {}
    for column in left_out[:_MOST_LEFT_OUT]:
        reasons.setdefault(column.reason, []).append(_shown(column.column))
    lines = _wrapped(f"{', '.join(columns)}: {reason}" for reason, columns in reasons.items())
    if len(left_out) > _MOST_LEFT_OUT:
        lines.append(f"#   and {len(left_out) - _MOST_LEFT_OUT} more columns")
    return ["# left out:", *lines] if lines else []


def _wrapped(texts: Iterable[str]) -> list[str]:
    return [
        f"#   {'  ' if i else ''}{part}"
        for text in texts
        for i, part in enumerate(wrap(text, _WIDTH - 6))
    ]


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _with_comment(line: str, comment: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in comment)
    return f"{line:<66}  # {shown}" if shown else line
