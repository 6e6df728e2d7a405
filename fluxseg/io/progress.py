"""How long work tells of its progress."""

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

T = TypeVar("T")

Progressed = Callable[[int, int], None]  # function that is called with (done, in all)


def tracked(items: Collection[T], progress: Progressed | None) -> Iterator[T]:
    """Yield the items, and tell of each when the next one is asked for."""
    for number, item in enumerate(items, 1):
        yield item
        if progress:
            progress(number, len(items))
