"""A real ZooKeeper for tests: one server or an ensemble, with links that can be cut; no root, no container.

The servers are started from the class path ``PIPEDAG_TEST_ZOOKEEPER_CLASSPATH``, the jars of Debian's
``libzookeeper-java``, or those in the package ``pyspark``, in this order. ``PIPEDAG_TEST_ZOOKEEPER_HOSTS`` names other
servers for the tests that need none of their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipedag_airflow.testing.proxies import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.testing.proxies import Link

__all__ = [
    "CLASSPATH_VARIABLE",
    "HOSTS_VARIABLE",
    "Ensemble",
    "Server",
    "ZooKeeperUnavailableError",
    "free_ports",
]

HOSTS_VARIABLE = "PIPEDAG_TEST_ZOOKEEPER_HOSTS"
CLASSPATH_VARIABLE = "PIPEDAG_TEST_ZOOKEEPER_CLASSPATH"

#: What the jar of Debian names itself, and what it forgets: a logger, and what TLS needs.
_DEBIAN = tuple(
    Path("/usr/share/java", f"{name}.jar") for name in ("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver")
)
_TICK = 100  # milliseconds; a session lasts between 2 and 600 of them
_SETTINGS = {
    "tickTime": _TICK,
    "initLimit": 50,
    "syncLimit": 15,
    "minSessionTimeout": 2 * _TICK,
    "maxSessionTimeout": 600 * _TICK,
    "maxClientCnxns": 0,
    "reconfigEnabled": "false",
    "4lw.commands.whitelist": "*",
    "admin.enableServer": "false",
    "forceSync": "no",
}
_JAVA_OPTIONS = ("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.cnxTimeout=500")
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_SECONDS_TO_START = 60.0
#: Another program may take a free port before the server does.
_ATTEMPTS = 3


class ZooKeeperUnavailableError(Exception):
    """There is no ZooKeeper to test with, or it does not start; the message says what to do."""


class Server:
    """One server.

    Args:
        number: Its number in the ensemble, from 1.
        folder: Where its data and its log are.
        port: The port for clients.
        settings: Further lines of its configuration.
    """

    def __init__(self, number: int, folder: Path, port: int, settings: Mapping[str, object]) -> None:
        self.number = number
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "myid").write_text(str(number))
        own = {"dataDir": folder / "data", "clientPort": port, "clientPortAddress": "127.0.0.1"}
        lines = [f"{name}={value}\n" for name, value in {**_SETTINGS, **own, **settings}.items()]
        (folder / "zoo.cfg").write_text("".join(lines))

    @property
    def is_running(self) -> bool:
        """Whether its process lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def mode(self) -> str | None:
        """``standalone``, ``leader`` or ``follower``; None while it serves nobody."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"srvr")
                answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        except OSError:
            return None
        return next((line.partition(": ")[2] for line in answer.splitlines() if line.startswith("Mode:")), None)

    def start(self) -> None:
        """Start the process."""
        java = shutil.which("java")
        if java is None:
            raise ZooKeeperUnavailableError("There is no Java: apt-get install default-jre-headless")
        command = [java, *_JAVA_OPTIONS, "-cp", _class_path(), _MAIN, str(self.folder / "zoo.cfg")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the Java that was found
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def kill(self) -> None:
        """Kill the process; its data stay, and it can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Stop the process without ending it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return what the process has said."""
        return (self.folder / "log").read_text(errors="replace")


class Ensemble:
    """Servers of our own, as a context manager. They reach each other through links, which :meth:`isolate` cuts.

    Args:
        size: How many.
        settings: Further lines of their configuration.
    """

    def __init__(self, size: int = 1, settings: Mapping[str, object] | None = None) -> None:
        self._size = size
        self._settings = dict(settings or {})
        self._network: Network | None = None
        #: The links for data and for elections, by the numbers of the servers at their ends.
        self._links: dict[tuple[int, int], tuple[Link, Link]] = {}
        self._folder: Path | None = None
        self.servers: list[Server] = []

    @property
    def hosts(self) -> str:
        """The servers, as a client wants them."""
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    @property
    def leader(self) -> Server:
        """The server that leads."""
        return next(server for server in self.servers if server.mode in ("leader", "standalone"))

    def __enter__(self) -> Ensemble:
        for attempt in range(_ATTEMPTS):
            try:
                self._make()
                for server in self.servers:
                    server.start()
                self.wait()
            except BaseException as error:
                self.stop()
                if not isinstance(error, ZooKeeperUnavailableError) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pipedag_zk_"))
        self._network = network = Network()
        numbers = range(1, self._size + 1)
        clients, data, election = (dict(zip(numbers, free_ports(self._size), strict=True)) for _ in range(3))
        pairs = list(itertools.permutations(numbers, 2))
        self._links = {(one, two): (network.link(data[two]), network.link(election[two])) for one, two in pairs}
        for one, two in pairs:
            # A server tells the others where it listens for elections, and some call back there: past the link.
            there, back = self._links[one, two][1], self._links[two, one][1]
            there.rewrite = f"127.0.0.1:{back.target}".encode(), f"127.0.0.1:{back.port}".encode()
        self.servers = []
        for number in numbers:
            settings = dict(self._settings)
            for other in numbers if self._size > 1 else ():
                own = f"127.0.0.1:{data[number]}:{election[number]}"
                settings[f"server.{other}"] = own if other == number else self._reached(number, other)
            folder = self._folder / str(number)
            self.servers.append(Server(number, folder, clients[number], settings))

    def _reached(self, number: int, other: int) -> str:
        """Return where a server reaches another one."""
        for_data, for_elections = self._links[number, other]
        return f"127.0.0.1:{for_data.port}:{for_elections.port}"

    def wait(self) -> None:
        """Wait until all servers that run serve clients, and one of them leads.

        Raises:
            ZooKeeperUnavailableError: if that takes too long, or a server has ended.
        """
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            running = [server for server in self.servers if server.is_running]
            modes = [server.mode for server in running]
            if None not in modes and ("leader" in modes or "standalone" in modes):
                return
            if not running:
                break
            time.sleep(0.02)
        logs = "\n".join(server.log()[-2000:] for server in self.servers)
        raise ZooKeeperUnavailableError(f"ZooKeeper does not start:\n{logs}")

    def isolate(self, server: Server) -> None:
        """Cut a server off from the others; clients still reach it."""
        for ends, links in self._links.items():
            if server.number in ends:
                for link in links:
                    link.cut()

    def heal(self) -> None:
        """End all of :meth:`isolate`."""
        for link in itertools.chain.from_iterable(self._links.values()):
            link.heal()

    def mend(self) -> None:
        """Undo whatever was done to the servers: afterwards all of them serve."""
        self.heal()
        for server in self.servers:
            if server.is_running:
                server.go_on()
            else:
                server.start()
        self.wait()

    def client_link(self) -> Link:
        """Return a link for clients to one of the servers, which a test may cut."""
        assert self._network is not None
        return self._network.link(self.servers[0].port)

    def stop(self) -> None:
        """Kill all servers and delete their data."""
        for server in self.servers:
            server.kill()
        if self._network is not None:
            self._network.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _class_path() -> str:
    if CLASSPATH_VARIABLE in os.environ:
        return os.environ[CLASSPATH_VARIABLE]
    if _DEBIAN[0].exists():
        return ":".join(map(str, _DEBIAN))
    package = importlib.util.find_spec("pyspark")
    for place in (package and package.submodule_search_locations) or ():
        if list(Path(place, "jars").glob("zookeeper-*.jar")):
            return str(Path(place, "jars", "*"))
    raise ZooKeeperUnavailableError(
        f"There is no ZooKeeper to test with: apt-get install libzookeeper-java, or set {CLASSPATH_VARIABLE}."
    )
