"""Options of `train.py fit` that other verbs hand on to it."""

from __future__ import annotations

from collections.abc import Sequence

_SECTIONS = ("--trainer.", "--data.", "--model.", "--run.")


def unknown_options(
    arguments: Sequence[str], *, verb: str, example: str, takes_seed: bool = True
) -> list[str]:
    """What is wrong with arguments that a verb does not know itself, a mistake each.

    Args:
        arguments: Those that are to be handed on; what does not begin with a dash is a value.
        verb: Of `python -m recsys`.
        example: An option that may be handed on.
        takes_seed: Whether `--seed_everything` may be handed on.
    """
    known = (*_SECTIONS, "--seed_everything") if takes_seed else _SECTIONS
    return [
        f"{argument.partition('=')[0]}: is no option; allowed are those of "
        f"`python -m recsys {verb} -h`, and of train.py fit, such as {example}"
        for argument in arguments
        if argument.startswith("-") and not argument.startswith(known)
    ]
