"""Those who publish, each a process of its own that can be stopped, paused and killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TextIO

    from history import History, Publish
    from products import Product

__all__ = ["Writer", "Writers"]

#: Within which time a process does what it was told to.
_SECONDS = 120.0
#: How a run is told that another one has its stage; after that it has published nothing.
_REFUSALS = ("StaleRunError", "StageBusyError")


class Writer:
    """A process that publishes one number after the other."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self.code: int | None = None
        #: How many publishes it has begun, and how many of them are over.
        self.begun = self.done = 0
        self._history = history
        self._pid = 0
        self._open: Publish | None = None
        self._news = threading.Condition()

    def hear(self, event: str, time: float, **facts: Any) -> None:
        """Note what the process says."""
        with self._news:
            if event == "forked":
                self._pid = facts["pid"]
            elif event == "begun":
                self._open = self._history.begin(facts["number"], self.name, time)
                self.begun += 1
            elif event == "ended":
                self.code = facts["code"]
                self._close("killed", time)
            else:
                error = facts.get("error", "")
                self._close("refused" if error in _REFUSALS else event, time, error, facts.get("text", ""))
                self.done += 1
            self._news.notify_all()

    def _close(self, outcome: str, time: float, error: str = "", text: str = "") -> None:
        if self._open is not None:
            self._open.outcome, self._open.ended = outcome, time
            self._open.error, self._open.text = error, text
            self._open = None

    def wait(self, until: Callable[[Writer], bool] = lambda writer: False, seconds: float = _SECONDS) -> bool:
        """Wait until something is so, or the process has ended; say whether that came in time."""
        with self._news:
            return self._news.wait_for(lambda: self.code is not None or until(self), seconds)

    def stop(self) -> None:
        """Let it end what it does, and wait for that.

        Raises:
            RuntimeError: if it does not end.
        """
        self.signal(signal.SIGTERM)
        if not self.wait():
            self.signal(signal.SIGKILL)
            raise RuntimeError(f"{self.name} did not end within {_SECONDS} s")

    def kill(self) -> None:
        """Kill it, now."""
        self.signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Stop it where it is."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a paused one continue."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with self._news:
            self._news.wait_for(lambda: self._pid, _SECONDS)
            if self.code is None:
                os.kill(self._pid, number)


class Writers:
    """The process that forks the writers, see publisher.py.

    Args:
        product: What publishes.
        log: Where what it prints goes.
    """

    def __init__(self, product: Product, log: Path) -> None:
        self._orders = itertools.count(1)
        self._by_order: dict[int, Writer] = {}
        self._log: TextIO = log.open("w")
        self._process = subprocess.Popen(
            [product.python, str(Path(__file__).with_name("publisher.py")), product.package, *product.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._ears = threading.Thread(target=self._listen, daemon=True)
        self._ears.start()

    def start(self, history: History, **order: Any) -> Writer:
        """Start a writer; the order is the arguments of ``work`` in publisher.py."""
        number = next(self._orders)
        name = f"writer-{number}"
        writer = self._by_order[number] = Writer(name, history)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": number, "name": name, **order}) + "\n")
        self._process.stdin.flush()
        return writer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self._by_order[event.pop("order")].hear(**event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_SECONDS)
        self._ears.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
