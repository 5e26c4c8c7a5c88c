"""Three servers of ZooKeeper, two runs that want one stage, and what may die, stop or be cut off.

Whatever does: no generation is published twice, the run that lost the stage is told who has it, and the other one gets
on. The first run is in a process of its own, the second one in this.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from zookeeper_flow import waiting_flow

from pipedag_airflow.testing.lock_fixtures import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Project

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.testing.zookeeper import Ensemble

pytestmark = pytest.mark.databases("postgres")

#: Time-outs of sessions, in seconds: one that ends in the test, and one that does not.
SHORT, LONG = 4, 60


class OtherHost:
    """A process that runs the flow, as it says on another host."""

    def __init__(self) -> None:
        #: Whether it waits for another configuration.
        self.is_free = True
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zookeeper_flow.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.strip())
        self._said.put("ended")

    def run(self, settings: Path) -> None:
        """Begin a run and wait until it is inside its stage."""
        self.is_free = False
        self.send(str(settings))
        self.says("inside")

    def send(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def says(self, start: str) -> str:
        """Wait for a line that begins so."""
        while not (line := self._said.get(timeout=PATIENCE)).startswith(start):
            assert line.startswith("state"), line
        self.is_free = line.startswith(("failed", "succeeded"))
        return line

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._listener.join()


class Second:
    """The run that wants the stage, in a thread."""

    def __init__(self, config: ConfigContext) -> None:
        self.run_id = ""
        self.began = 0.0
        self._config = config
        self._inside = threading.Event()
        self._may_go_on = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        waiting_flow("second", self._wait).run(config=self._config)

    def _wait(self) -> None:
        self.began = time.monotonic()
        self.run_id = self._config.lock_manager.holder("s").owner.run_id
        self._inside.set()
        assert self._may_go_on.wait(PATIENCE)

    def has_the_stage(self) -> None:
        """Wait until it has it."""
        assert self._inside.wait(PATIENCE)

    def finishes(self) -> None:
        self._may_go_on.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class Race:
    """Both runs, and what they have published."""

    def __init__(self, project: Project, ensemble: Ensemble, first: OtherHost, timeout: float, hosts: str) -> None:
        self._project = project
        file = project.folder / "pipedag.yaml"
        settings = project.settings | {"lock_manager": locks_at(hosts, timeout)}
        file.write_text(yaml.safe_dump({"instances": {"__any__": settings}}))
        self.first = first
        self.first.run(file)
        config = project.config(lock_manager=locks_at(ensemble.hosts, timeout))
        self._locks = config.lock_manager
        self.first_id = self._locks.holder("s").owner.run_id
        self.second = Second(config)
        until(lambda: bool(self._locks._read("s").tickets))

    def published(self) -> list[str]:
        """Return who has published, in order, and see that readers see the last one's; a number is published once."""
        rows = self._project.query(
            "select run_id, number = live from pipedag_metadata.generation join pipedag_metadata.stage using (stage)"
            " where state = 'published' order by number"
        )
        assert [live for _, live in rows] == [False] * (len(rows) - 1) + [True]
        names = {self.first_id: "first", self.second.run_id: "second"}
        published = [names[run_id] for run_id, _ in rows]
        assert self._project.query("select made_by from s.made") == [(published[-1],)]
        return published

    def close(self) -> None:
        self._locks.dispose()


def locks_at(hosts: str, timeout: float) -> dict[str, object]:
    args = {"hosts": hosts, "timeout": timeout}
    return {"class": "pipedag_airflow.backend.lock.ZooKeeperLockManager", "args": args}


@pytest.fixture(scope="module")
def other_hosts() -> Iterator[list[OtherHost]]:
    """The processes of the first runs; the last one may be used again."""
    hosts: list[OtherHost] = []
    yield hosts
    for host in hosts:
        host.close()


@pytest.fixture
def start(project: Project, zookeeper: Ensemble, other_hosts: list[OtherHost]) -> Iterator[Callable[..., Race]]:
    """Start both runs, with sessions of these seconds; the first one may know some of the servers only."""
    with contextlib.ExitStack() as stack:
        stack.callback(zookeeper.mend)

        def start(timeout: float, hosts: str = zookeeper.hosts) -> Race:
            if not other_hosts or not other_hosts[-1].is_free:
                other_hosts.append(OtherHost())
            race = Race(project, zookeeper, other_hosts[-1], timeout, hosts)
            stack.callback(race.close)
            return race

        yield start


def test_the_holder_is_killed(start: Callable[..., Race], report_takeover: Callable[[float, float], None]) -> None:
    race = start(SHORT)
    killed = time.monotonic()
    race.first.signal(signal.SIGKILL)
    race.second.has_the_stage()
    report_takeover(race.second.began - killed, SHORT)
    race.second.finishes()
    assert race.published() == ["second"]


def test_the_leader_is_killed(start: Callable[..., Race], zookeeper: Ensemble) -> None:
    """Another server leads in its place, and the holder keeps the stage."""
    race = start(LONG)
    zookeeper.leader.kill()
    race.first.send()
    race.first.says("succeeded")
    race.second.has_the_stage()
    race.second.finishes()
    assert race.published() == ["first", "second"]


def test_the_holder_and_the_leader_are_killed(
    start: Callable[..., Race], zookeeper: Ensemble, report_takeover: Callable[[float, float], None]
) -> None:
    race = start(SHORT)
    leader = zookeeper.leader
    killed = time.monotonic()
    race.first.signal(signal.SIGKILL)
    leader.kill()
    race.second.has_the_stage()
    report_takeover(race.second.began - killed, SHORT)
    race.second.finishes()
    assert race.published() == ["second"]


def test_the_holder_and_the_leader_are_stopped_and_go_on(
    start: Callable[..., Race], zookeeper: Ensemble, report_takeover: Callable[[float, float], None]
) -> None:
    race = start(SHORT)
    leader = zookeeper.leader
    stopped = time.monotonic()
    race.first.signal(signal.SIGSTOP)
    leader.pause()
    race.second.has_the_stage()
    report_takeover(race.second.began - stopped, SHORT)
    leader.go_on()
    race.first.signal(signal.SIGCONT)
    race.first.send()
    assert race.second.run_id in race.first.says("failed StaleRunError")
    race.second.finishes()
    assert race.published() == ["second"]


def test_a_quorum_that_comes_back_in_time_costs_nobody_the_stage(
    start: Callable[..., Race], zookeeper: Ensemble
) -> None:
    """Meanwhile the holder does not write, although its task is done."""
    race = start(LONG)
    for server in zookeeper.servers[:2]:
        server.kill()
    race.first.says("state UNCERTAIN")
    race.first.send()
    zookeeper.mend()
    race.first.says("state LOCKED")
    race.first.says("succeeded")
    race.second.has_the_stage()
    race.second.finishes()
    assert race.published() == ["first", "second"]


def test_a_quorum_that_comes_back_too_late_costs_the_holder_the_stage(
    start: Callable[..., Race], zookeeper: Ensemble
) -> None:
    """It stops by its own clock. Nobody else can have the stage before there is a quorum."""
    race = start(SHORT)
    for server in zookeeper.servers[:2]:
        server.kill()
    race.first.says("state INVALID")
    zookeeper.mend()
    race.second.has_the_stage()
    race.first.send()
    assert race.second.run_id in race.first.says("failed StaleRunError")
    race.second.finishes()
    assert race.published() == ["second"]


def test_the_holder_is_cut_off_together_with_the_old_leader(
    start: Callable[..., Race], zookeeper: Ensemble, report_takeover: Callable[[float, float], None]
) -> None:
    leader = zookeeper.leader
    race = start(SHORT, hosts=f"127.0.0.1:{leader.port}")
    cut = time.monotonic()
    zookeeper.isolate(leader)
    race.first.says("state UNCERTAIN")
    race.first.says("state INVALID")
    race.second.has_the_stage()
    report_takeover(race.second.began - cut, SHORT)
    zookeeper.heal()
    race.first.send()
    assert race.second.run_id in race.first.says("failed StaleRunError")
    race.second.finishes()
    assert race.published() == ["second"]


def test_the_network_of_the_holder_swallows_everything(
    start: Callable[..., Race], zookeeper: Ensemble, report_takeover: Callable[[float, float], None]
) -> None:
    """No connection ends, and no answer comes: it stops by its own clock, and stays so when all arrives in the end."""
    link = zookeeper.client_link()
    race = start(SHORT, hosts=f"127.0.0.1:{link.port}")
    silent = time.monotonic()
    link.swallow()
    race.second.has_the_stage()
    report_takeover(race.second.began - silent, SHORT)
    race.first.says("state UNCERTAIN")
    race.first.says("state INVALID")
    link.heal()
    race.first.send()
    assert race.second.run_id in race.first.says("failed StaleRunError")
    race.second.finishes()
    assert race.published() == ["second"]
