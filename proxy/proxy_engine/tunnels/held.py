"""Which names the links of a token serve, for the limit of the token. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Held:
    """Most tokens have one link, whose names are kept as they are; those of several are counted."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, ...] | Counter[str]] = {}  # by token

    def add(self, token: int, names: tuple[str, ...]) -> None:
        """One more link of it serves these."""
        held = self._names.get(token)
        if held is None:
            self._names[token] = names
            return
        if isinstance(held, tuple):
            held = self._names[token] = Counter(held)
        held.update(names)

    def drop(self, token: int, names: Iterable[str]) -> None:
        """A link of it serves these no more."""
        held = self._names.get(token)
        if isinstance(held, Counter):
            held.subtract(names)
            for name in names:
                if not held[name]:
                    del held[name]
        if not isinstance(held, Counter) or not held:
            self._names.pop(token, None)

    def names(self, token: int, without: Iterable[Iterable[str]] = ()) -> set[str]:
        """
        Args:
            without: the names of some of its links, which do not count.
        """
        rest = Counter(self._names.get(token, ()))
        for names in without:
            rest.subtract(names)
        return {name for name, count in rest.items() if count > 0}
