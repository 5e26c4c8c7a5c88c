"""TCP links that can be cut or swallow what is sent: a network partition without root."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Link", "Network"]

T = TypeVar("T")

_SECONDS_TO_CUT = 10.0
_CONNECT_ATTEMPTS = 40
_PAUSE = 0.05


class Network:
    """Links, served by a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pipedag-network", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def link(self, target: int) -> Link:
        """Make a link.

        Args:
            target: The port on this machine that it leads to.
        """
        link = Link(self, target)
        self._links.append(link)
        return link

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine in the network's thread; for links."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_SECONDS_TO_CUT)

    def close(self) -> None:
        """End all connections and links."""
        for link in self._links:
            link.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """A port that leads to another one until it is cut: then connections are reset, and new ones refused.

    Args:
        network: Serves the link.
        target: The port that it leads to.
    """

    def __init__(self, network: Network, target: int) -> None:
        self.target = target
        #: What to exchange in the first packet of each connection, for something of the same length.
        self.rewrite: tuple[bytes, bytes] | None = None
        self._network = network
        self._is_cut = False
        self._passes = asyncio.Event()
        self._passes.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._listener = network.call(asyncio.start_server(self._serve, "127.0.0.1", 0))

    @property
    def port(self) -> int:
        """The port to connect to instead of the target's."""
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Cut it."""
        self._network.call(self._cut())

    def swallow(self) -> None:
        """Let nothing through any more, and say so to nobody: connections stay open, and new ones are accepted."""
        self._network.call(self._let_through(False))

    def heal(self) -> None:
        """Mend it; what was swallowed arrives now, on connections that are still open."""
        self._is_cut = False
        self._network.call(self._let_through(True))

    def close(self) -> None:
        """Cut it for good."""
        self._network.call(self._close())

    async def _let_through(self, passes: bool) -> None:
        (self._passes.set if passes else self._passes.clear)()

    async def _cut(self) -> None:
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    async def _close(self) -> None:
        await self._cut()
        self._passes.set()
        self._listener.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listener.wait_closed(), 5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._open.add(writer)
        try:
            if not self._is_cut:
                there, back = await _connect(self.target)
                ends.add(back)
                self._open.add(back)
                await asyncio.gather(self._copy(reader, back, self.rewrite), self._copy(there, writer, None))
        except OSError:
            pass  # an end has died, which is what tests are about
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrite: tuple[bytes, bytes] | None
    ) -> None:
        while data := await reader.read(65536):
            await self._passes.wait()
            if rewrite is not None:
                assert len(rewrite[0]) == len(rewrite[1])
                data, rewrite = data.replace(*rewrite), None
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # A server that begins to lead listens a moment after the others have heard of it. Refused, they would try again;
    # but they have reached the link, and take the end of that connection for the end of the leader.
    for _ in range(_CONNECT_ATTEMPTS):
        with contextlib.suppress(ConnectionRefusedError):
            return await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(_PAUSE)
    raise ConnectionRefusedError
