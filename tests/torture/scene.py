"""What a case has: a database, those who write and read there, and what was seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs
import yaml
from history import History
from readers import ROWS, TABLES, Manner, Reader, read

if TYPE_CHECKING:
    import random

    from places import Place
    from products import Product
    from writers import Writer, Writers

__all__ = ["Scene"]


@attrs.define
class Scene:
    """The scene of a case.

    Args:
        product: What is tortured.
        place: The database.
        writers: Where writers come from.
        technique: How stages are published, as pipedag.yaml says it.
        seconds: How long the case may take, roughly.
        dice: What is left to chance.
    """

    product: Product
    place: Place
    writers: Writers
    technique: str
    seconds: float
    dice: random.Random
    history: History = attrs.field(init=False, factory=History)
    kills: int = attrs.field(init=False, default=0)
    reads: int = attrs.field(init=False, default=0)
    anomalies: list[str] = attrs.field(init=False, factory=list)
    last_number: int = attrs.field(init=False, default=0)
    _deadline: float | None = attrs.field(init=False, default=None)
    _histories: list[History] = attrs.field(init=False, factory=list)
    _readers: list[Reader] = attrs.field(init=False, factory=list)
    _started: list[Writer] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._histories.append(self.history)

    @property
    def is_over(self) -> bool:
        """Whether the time of the case is up; it runs from the first time that this is asked."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self.seconds
        return time.monotonic() > self._deadline

    def another_history(self) -> History:
        """Return the history of another stage, which shows what it has read of the first one."""
        self._histories.append(History(shows_own_numbers=False))
        return self._histories[-1]

    def next_number(self) -> int:
        """Return a number that was never published."""
        self.last_number = max([self.last_number, *(publish.number for publish in self.history.publishes)]) + 1
        return self.last_number

    # --- those who act ----------------------------------------------------------------------------------------------

    def write(
        self,
        first: int,
        step: int = 0,
        *,
        stage: str = "numbers",
        locks: str | None = None,
        crash_point: str = "",
        history: History | None = None,
    ) -> Writer:
        """Start a writer, with a first number and perhaps further ones."""
        locks = locks or ("FileLockManager" if self.place.name == "duckdb" else "DatabaseLockManager")
        file = self.place.folder / f"{locks}.yaml"
        config = self.product.config(self.place.url, str(self.place.folder), self.technique, locks)
        # Another writer may be reading it, and the server's port is not always the same.
        new = file.with_suffix(".new")
        new.write_text(yaml.safe_dump(config))
        new.replace(file)
        order = {"stage": stage, "first": first, "step": step, "crash_point": crash_point}
        writer = self.writers.start(history or self.history, config=str(file), rows=ROWS, **order)
        self._started.append(writer)
        return writer

    def publish(self, number: int, **order: Any) -> None:
        """Publish a number, and wait until it is; that it fails is an anomaly."""
        writer = self.write(number, **order)
        writer.wait()
        history = order.get("history") or self.history
        last = history.publishes[-1]
        if last.outcome != "published":
            self.complain(f"the publish of {number}, alone, {last.outcome}: {last.text}")

    def read(self, *manners: Manner, history: History | None = None) -> None:
        """Start readers."""
        for manner in manners if self.product.waits else map(Manner.mixed, manners):
            name = f"{manner.name}-{len(self._readers) + 1}"
            reader = Reader(name, manner, self.place, history or self.history, self.dice.randrange(1 << 30))
            self._readers.append(reader)
            reader.start()

    def look(self, *expected: int, stage: str = "numbers") -> int:
        """Look at everything, and return the number; another one than is expected is an anomaly."""
        metadata = self.product.metadata if stage == "numbers" else None
        manner = Manner("look", stage=stage, metadata=metadata)
        client = self.place.client()
        try:
            number = self.place.patiently(lambda: read(client, manner, self.dice))[0].number
            if stage == "numbers":
                self._look_at_names(number)
        except Exception as error:
            self.complain(f"{stage} cannot be read: {type(error).__name__}: {error}")
            return -1
        finally:
            client.close()
        if expected and number not in expected:
            self.complain(f"{stage} shows {number}; expected was {' or '.join(map(str, expected))}")
        return number

    def _look_at_names(self, number: int) -> None:
        """Complain unless just those tables are there that this number has."""
        parity = "odd" if number % 2 else "even"
        there = self.place.query("select table_name from information_schema.tables where table_schema = 'numbers'")
        names = {name for (name,) in there}
        if names != {*TABLES["numbers"], parity}:
            self.complain(f"{number} is published with the tables {sorted(names)}")
        elif self.place.query(f"select distinct number from numbers.{parity}") != [(number,)]:
            self.complain(f"{number} is published, but not in the table {parity}")

    # --- the end ----------------------------------------------------------------------------------------------------

    def complain(self, anomaly: str) -> None:
        """Note an anomaly."""
        self.anomalies.append(anomaly)

    def forbid_failures(self, *but: str, history: History | None = None) -> None:
        """Complain of publishes that failed, but for errors of some names; a refusal is no failure."""
        for publish in (history or self.history).publishes:
            if publish.outcome == "failed" and publish.error not in but:
                self.complain(f"the publish of {publish.number} by {publish.writer} failed: {publish.text}")

    def settle(self, *, grows: bool) -> None:
        """Let all readers end, and compare what they saw with what was published."""
        for reader in self._readers:
            reader.stop()
            self.reads += reader.reads
            self.anomalies += reader.anomalies
        for history in self._histories:
            self.anomalies += history.anomalies(grows=grows)

    def close(self) -> None:
        """Leave nobody behind, also after an error."""
        for reader in self._readers:
            reader.stop()
        for writer in self._started:
            writer.kill()

    @property
    def publishes(self) -> int:
        """How many publishes were told to have succeeded."""
        return sum(history.count("published") for history in self._histories)
