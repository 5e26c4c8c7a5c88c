"""What was published when, and what was seen when: does the one explain the other?

A stage is a register. A publish writes its number some time between its begin and its end; a read returns what was
written last. A publish that failed, or was killed, may have written or not. One that was refused has not.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import defaultdict

import attrs

__all__ = ["History", "Publish"]

#: How many of the latest publishes are asked whether they explain what was seen; more only takes time.
_LATEST = 500


@attrs.define
class Publish:
    """One attempt to publish a number.

    Args:
        number: The number.
        writer: Who did it.
        begun: When.
        ended: When it was known to be over.
        outcome: ``published``, ``refused``, ``failed`` or ``killed``; None as long as it is open.
        error: The type of the error, if there was one.
        text: The error.
    """

    number: int
    writer: str
    begun: float
    ended: float = float("inf")
    outcome: str | None = None
    error: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.writer}: {self.number} {self.outcome} between {self.begun:.3f} and {self.ended:.3f}"


@attrs.define
class _Seen:
    """A number that a reader has seen in one read, or in several after each other: the first and the last of them."""

    number: int
    first: tuple[float, float]
    last: tuple[float, float]


class History:
    """All publishes and all reads of a stage.

    Args:
        shows_own_numbers: Whether the numbers that are seen are those of its publishes.
    """

    def __init__(self, *, shows_own_numbers: bool = True) -> None:
        self.publishes: list[Publish] = []
        self._shows_own_numbers = shows_own_numbers
        self._seen: dict[str, list[_Seen]] = defaultdict(list)
        self._by_generation: dict[int, set[int]] = defaultdict(set)
        self._lock = threading.Lock()

    def begin(self, number: int, writer: str, time: float) -> Publish:
        """Note that a publish began."""
        with self._lock:
            self.publishes.append(Publish(number, writer, time))
            return self.publishes[-1]

    def saw(self, reader: str, number: int, begin: float, end: float, generation: int | None = None) -> None:
        """Note that a read between two times saw a number, and perhaps which generation was live."""
        with self._lock:
            if generation is not None:
                self._by_generation[generation].add(number)
            seen = self._seen[reader]
            if seen and seen[-1].number == number:
                seen[-1].last = (begin, end)
            else:
                seen.append(_Seen(number, (begin, end), (begin, end)))

    def count(self, outcome: str) -> int:
        """Return how many publishes had that outcome."""
        return sum(publish.outcome == outcome for publish in self.publishes)

    @property
    def newest(self) -> int:
        """The greatest number that was published for sure."""
        return max((publish.number for publish in self.publishes if publish.outcome == "published"), default=0)

    def anomalies(self, *, grows: bool) -> list[str]:
        """Return what was seen and cannot be.

        Args:
            grows: Whether each publish has a greater number than the one before, and begins when that one is over.
        """
        self.publishes.sort(key=_begun)
        found = [
            f"generation {generation} was seen with the numbers {sorted(numbers)}"
            for generation, numbers in self._by_generation.items()
            if len(numbers) > 1
        ]
        for reader, seen in self._seen.items():
            if self._shows_own_numbers:
                found += self._unexplained(reader, seen)
            if grows:
                found += _backwards(reader, seen)
        return found

    def _unexplained(self, reader: str, seen: list[_Seen]) -> list[str]:
        return [
            f"{reader} saw {what.number} between {begin:.3f} and {end:.3f}: {why}"
            for what in seen
            for begin, end in (what.first, what.last)
            for why in self._why_not(what.number, begin, end)
        ]

    def _why_not(self, number: int, begin: float, end: float) -> list[str]:
        """Say why a number cannot be seen between two times; nothing if it can."""
        over = [publish for publish in self._latest(begin) if publish.outcome == "published" and publish.ended <= begin]
        newest = max(over, key=_begun, default=None)
        found = [publish for publish in self._latest(end) if publish.number == number and publish.outcome != "refused"]
        if any(newest is None or publish.ended >= newest.begun for publish in found):
            return []
        known = "; ".join(map(str, found)) or "it was not begun by then, or refused"
        return [f"{known}. But {newest}" if found and newest else known]

    def _latest(self, time: float) -> list[Publish]:
        """Return the publishes that began before some time, the last of them."""
        index = bisect.bisect_right(self.publishes, time, key=_begun)
        return self.publishes[max(0, index - _LATEST) : index]


def _begun(publish: Publish) -> float:
    return publish.begun


def _backwards(reader: str, seen: list[_Seen]) -> list[str]:
    return [
        f"{reader} saw {then.number} after {before.number}"
        for before, then in itertools.pairwise(seen)
        if then.number < before.number
    ]
