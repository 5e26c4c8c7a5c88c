"""Those who read in loops, and say what they saw."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from history import History
    from places import Client, Place

__all__ = ["ROWS", "TABLES", "AnomalyError", "Manner", "Reader", "read"]

#: The rows of every table.
ROWS = 50
#: The tables that the stages always have; all but ``steady`` hold the number that was published last.
TABLES = {"numbers": ("steady", "one", "two", "three"), "derived": ("left", "right")}
_METADATA = "metadata"
_NUMBERED_TASKS = 2


class AnomalyError(Exception):
    """Something was seen that must not be."""


@attrs.frozen
class Manner:
    """How somebody reads.

    Args:
        name: What it is called.
        stage: The stage that is read.
        schema: Where it is read; by default in its own schema.
        at_once: Whether all is read with one statement, or each table with its own, in one transaction.
        isolation: Of the transaction; None is the database's default, each statement for itself.
        metadata: A query for what the metadata say, to be read too.
        role: Who reads.
        pause: Seconds from one statement to the next.
        steady_last: Whether the table that never changes is read after those that do: by views, a publish waits only
            for those who have read a table that changes.
        rest: Seconds from one transaction to the next: readers leave time to each other, and to those who publish.
        mixes: Whether tables of two generations may be seen in turn, each of them whole: a publish does not wait.
    """

    name: str
    stage: str = "numbers"
    schema: str | None = None
    at_once: bool = True
    isolation: str | None = None
    metadata: str | None = None
    role: str | None = None
    pause: float = 0.0
    steady_last: bool = False
    rest: float = 0.005
    mixes: bool = False

    @property
    def agrees(self) -> bool:
        """Whether all statements of a transaction must show one number; else only none that is older."""
        return self.isolation != "read committed" and not self.mixes

    def mixed(self) -> Manner:
        """Return the same for stages whose publishes do not wait: with these, no isolation is more than this one."""
        return attrs.evolve(self, mixes=True, isolation=self.isolation and "read committed", metadata=None)

    def statements(self, dice: random.Random) -> list[str]:
        """Return the statements of a transaction; nobody reads in our order."""
        schema = self.schema or self.stage
        parts = [
            f"select '{table}', count(*), min(number), max(number), cast(null as bigint) from {schema}.{table}"
            for table in TABLES[self.stage]
        ]
        if self.stage == "derived":
            parts.append("select 'blob', count(*), min(blob), max(blob), null from derived.right")
        if self.metadata is not None:
            parts.append(f"select '{_METADATA}', found.* from ({self.metadata}) as found")
        dice.shuffle(parts)
        if self.steady_last:
            parts.sort(key=lambda part: "steady" in part)
        return [" union all ".join(parts)] if self.at_once else parts


@attrs.frozen
class Sight:
    """What a statement showed: the number, the generation that is live, if it was asked for, and when."""

    number: int
    live: int | None
    begin: float
    end: float


def read(client: Client, manner: Manner, dice: random.Random) -> list[Sight]:
    """Read in one transaction, and return what each statement showed.

    Raises:
        AnomalyError: if that cannot be.
    """
    begin = time.monotonic()
    sights: list[Sight] = []
    with client.transaction(manner.isolation) as query:
        for statement in manner.statements(dice):
            if not manner.agrees:
                begin = time.monotonic()
            rows = query(statement)
            for number in _numbers(rows, manner):
                live = next((row[4] for row in rows if row[4] is not None), None)
                sights.append(Sight(number, live, begin, time.monotonic()))
            time.sleep(manner.pause)
    numbers = [sight.number for sight in sights]
    if manner.agrees and len(set(numbers)) > 1:
        raise AnomalyError(f"the statements of one transaction show {numbers}")
    return sights


def _numbers(rows: list[tuple[Any, ...]], manner: Manner) -> list[int]:
    """Return the numbers in the result of a statement, one unless they may be mixed; the steady table has none."""
    numbers: set[int] = set()
    for table, count, least, greatest, _ in rows:
        expected = _NUMBERED_TASKS if table == _METADATA else ROWS
        if count != expected:
            raise AnomalyError(f"{table} has {count} rows instead of {expected}")
        if table != "steady":
            if least != greatest:
                raise AnomalyError(f"{table} has the numbers {least} and {greatest}")
            numbers.add(least)
    if len(numbers) > 1 and not manner.mixes:
        raise AnomalyError(f"numbers are mixed: {sorted(rows)}")
    return sorted(numbers)


class Reader(threading.Thread):
    """Reads until it is told to stop.

    Args:
        name: Its name.
        manner: How it reads.
        place: The database.
        history: To whom it says what it saw.
        seed: Of the order in which it reads the tables.
    """

    def __init__(self, name: str, manner: Manner, place: Place, history: History, seed: int) -> None:
        super().__init__(name=name)
        self.anomalies: list[str] = []
        self.reads = 0
        self._manner = manner
        self._place = place
        self._history = history
        self._dice = random.Random(seed)
        self._live = 0
        self._end = threading.Event()

    def run(self) -> None:
        """Read."""
        client = self._place.client(self._manner.role)
        while not self._end.is_set():
            begin = time.monotonic()
            try:
                self._note(read(client, self._manner, self._dice))
            except self._place.busy:
                pass
            except Exception as error:
                if not self._place.was_out(begin, time.monotonic()):
                    self.anomalies.append(f"{self.name}: {type(error).__name__}: {error}")
            self._end.wait(self._manner.rest)
        client.close()

    def stop(self) -> None:
        """End after the transaction that is under way."""
        self._end.set()
        self.join()

    def _note(self, sights: list[Sight]) -> None:
        self.reads += 1
        for sight in sights:
            self._history.saw(self.name, sight.number, sight.begin, sight.end, sight.live)
            if sight.live is not None:
                if sight.live < self._live:
                    self.anomalies.append(f"{self.name} saw generation {sight.live} live after {self._live}")
                self._live = sight.live
