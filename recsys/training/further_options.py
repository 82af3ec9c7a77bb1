"""Options of `train.py fit` that other verbs hand on to it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

_SECTIONS = ("--trainer.", "--data.", "--model.", "--run.")


def unknown_options(
    arguments: Sequence[str],
    *,
    verb: str,
    example: str,
    takes_seed: bool = True,
    decided: Collection[str] = (),
) -> list[str]:
    """What is wrong with arguments that a verb does not know itself, a mistake each.

    Args:
        arguments: Those that are to be handed on; what does not begin with a dash is a value.
        verb: Of `python -m recsys`.
        example: An option that may be handed on.
        takes_seed: Whether `--seed_everything` may be handed on.
        decided: Options that the verb gives `train.py fit` itself.
    """
    known = (*_SECTIONS, "--seed_everything") if takes_seed else _SECTIONS
    options = [a.partition("=")[0] for a in arguments if a.startswith("-")]
    return [
        f"{option}: is what {verb} decides by itself for each training; leave it out"
        if option in decided
        else f"{option}: is no option; allowed are those of `python -m recsys {verb} -h`, and of "
        f"train.py fit, such as {example}"
        for option in options
        if option in decided or not option.startswith(known)
    ]
