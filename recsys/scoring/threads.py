"""Work on several threads at once, with the same bits as on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within, an operation of torch runs on one thread, so that bits do not follow their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mapped(
    function: Callable[[_Item], _Found], items: Iterable[_Item], *, num_threads: int
) -> Iterator[_Found]:
    """The function of each item, in order, some at once.

    Args:
        function: Called from several threads.
        items: Read ahead of what is given, by a few times the number of threads.
        num_threads: Items that are worked on at once.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    with ThreadPoolExecutor(num_threads) as executor:
        while some := list(islice(iterator, 4 * num_threads)):
            yield from executor.map(function, some)
