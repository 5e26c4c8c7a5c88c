"""The client of Airflow's REST API when Airflow's database is busy."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.testing.rest import AirflowClient, AirflowRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY = (500, {"detail": {"reason": "Database error", "statement": "hidden"}})
BROKEN = (500, {"detail": "Internal Server Error"})
DONE = (200, {"task_instances": [{"task_id": "load"}]})

Answer = tuple[int, object]
Served = tuple[AirflowClient, list[str]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """A server that gives the answers one after the other, with a client and the paths that were asked for."""
    servers: list[HTTPServer] = []

    def start(*answers: Answer) -> Served:
        asked: list[str] = []
        left = [(200, {"access_token": "token"}), *answers]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                asked.append(self.path)
                status, body = left.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                """Nothing: the default writes to standard error."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return AirflowClient(f"http://127.0.0.1:{server.server_port}", "admin", "secret"), asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_request_that_airflows_database_refused_is_sent_again(serve: Callable[..., Served]) -> None:
    client, asked = serve(BUSY, BUSY, DONE)
    assert client.clear("flow", "run", ["load"]) == ["load"]
    assert asked == ["/auth/token", *["/api/v2/dags/flow/clearTaskInstances"] * 3]


def test_any_other_error_is_raised_at_once(serve: Callable[..., Served]) -> None:
    client, asked = serve(BROKEN, DONE)
    with pytest.raises(AirflowRequestError, match=r"HTTP 500: .*Internal Server Error"):
        client.clear("flow", "run", ["load"])
    assert len(asked) == 2
