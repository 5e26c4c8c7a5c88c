from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.lock import FileLockManager, LockState, Owner
from pipedag_airflow.errors import ConfigError, LockError, StageBusyError
from pipedag_airflow.testing.lock_suite import Clock, LockManagerSuite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class TestFileLockManager(LockManagerSuite):
    @pytest.fixture
    def make_manager(self, tmp_path: Path) -> Callable[..., FileLockManager]:
        return functools.partial(FileLockManager, tmp_path / "locks with blanks λ")


@pytest.fixture
def manager(tmp_path: Path) -> FileLockManager:
    return FileLockManager(tmp_path)


ONE, TWO = Owner.of_run("r1"), Owner.of_run("r2")


def test_the_refusal_says_how_to_free_the_stage(manager: FileLockManager, tmp_path: Path) -> None:
    manager.acquire("a b", ONE, seconds=30)
    with pytest.raises(StageBusyError, match=r"if that run is gone, free .*: pipedag-airflow locks break 'a b'$"):
        manager.acquire("a b", TWO, seconds=30)
    (tmp_path / "a%20b.lease").unlink()  # somebody in a hurry
    assert manager.acquire("a b", TWO, seconds=30).owner == TWO


def test_the_next_of_many_short_steps_writes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    manager = FileLockManager(tmp_path, clock=clock)
    first = manager.acquire("s", ONE, seconds=60)
    clock.now += 9
    assert manager.acquire("s", ONE, seconds=60) == first
    clock.now += 2
    renewed = manager.acquire("s", ONE, seconds=60)
    assert (renewed.token, renewed.expires) == (first.token, clock.now + 60)
    other = FileLockManager(tmp_path, clock=clock)
    clock.now += 1
    assert other.acquire("s", ONE, seconds=60).heartbeat == clock.now, "another process makes sure"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"format": 2}', b"null", b'{"format": 1, "stage": "s"}'],
)
def test_a_damaged_record_is_an_error_that_names_the_file(
    manager: FileLockManager, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "s.lease"
    path.write_bytes(content)
    calls: list[Callable[[], object]] = [
        lambda: manager.acquire("s", ONE, seconds=30),
        lambda: manager.renew("s", ONE, seconds=30),
        lambda: manager.release("s", ONE),
        lambda: manager.withdraw("s", ONE),
        lambda: manager.holder("s"),
        lambda: manager.state("s", ONE),
        manager.leases,
    ]
    for call in calls:
        with pytest.raises(LockError, match="is not a lease record") as caught:
            call()
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("field", ["owner", "token", "since", "expires"])
@pytest.mark.parametrize("value", [None, "x", [], {}])
def test_a_record_with_a_wrong_value_is_damaged(
    manager: FileLockManager, tmp_path: Path, field: str, value: object
) -> None:
    manager.acquire("s", ONE, seconds=30)
    path = tmp_path / "s.lease"
    record = json.loads(path.read_text())
    record["lease"][field] = value
    path.write_text(json.dumps(record))
    with pytest.raises(LockError, match="is not a lease record"):
        manager.holder("s")


def test_one_damaged_record_does_not_keep_a_runs_other_stages(manager: FileLockManager, tmp_path: Path) -> None:
    manager.acquire("a", ONE, seconds=30)
    manager.acquire("c", ONE, seconds=30)
    (tmp_path / "b.lease").write_text("torn")
    assert manager.release_run("r1") == ["a", "c"]


def test_a_change_leaves_the_record_and_its_lock_file_only(manager: FileLockManager, tmp_path: Path) -> None:
    (tmp_path / "s.lease.tmp").write_text("left by a writer that was killed")
    manager.acquire("s", ONE, seconds=30)
    manager.renew("s", ONE, seconds=30)
    manager.release("s", ONE)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["s.lease"]


def test_asking_writes_nothing(tmp_path: Path) -> None:
    manager = FileLockManager(tmp_path / "not there")
    assert manager.holder("s") is None
    assert manager.leases() == []
    assert manager.release_run("r1") == []
    assert manager.state("s", ONE) is LockState.UNLOCKED
    assert not (tmp_path / "not there").exists()


def test_the_instance_id_is_a_folder_of_base_path(tmp_path: Path) -> None:
    context = SimpleNamespace(instance_id=" Team/Mid ")
    manager = FileLockManager.from_config(context, base_path=str(tmp_path))
    assert manager.base_path == tmp_path / "team_mid"
    with pytest.raises(ConfigError, match=r"\.\."):
        FileLockManager.from_config(SimpleNamespace(instance_id=".."), base_path=str(tmp_path))


@pytest.mark.parametrize("args", [{}, {"base_path": "x", "base_pth": "y"}])
def test_arguments_that_do_not_fit_are_a_config_error(args: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"lock_manager\.args.*base_path"):
        FileLockManager.from_config(SimpleNamespace(instance_id="i"), **args)


def test_a_relative_base_path_does_not_follow_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = FileLockManager("locks")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    manager.acquire("s", ONE, seconds=30)
    assert (tmp_path / "locks" / "s.lease").exists()


def test_a_base_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match=str(tmp_path / "file")):
        FileLockManager(tmp_path / "file").acquire("s", ONE, seconds=30)


def test_a_lease_of_another_case_is_not_taken_for_ours(manager: FileLockManager, tmp_path: Path) -> None:
    # What a file system that ignores case would do.
    manager.acquire("Stage", ONE, seconds=30)
    (tmp_path / "Stage.lease").rename(tmp_path / "stage.lease")
    with pytest.raises(LockError, match="'Stage', not of 'stage'"):
        manager.acquire("stage", ONE, seconds=30)


def test_a_stage_that_changes_hands_while_it_is_judged_is_judged_anew(tmp_path: Path) -> None:
    manager, other = FileLockManager(tmp_path), FileLockManager(tmp_path)
    manager.acquire("s", ONE, seconds=30)
    asked = []

    def is_over(lease: object) -> bool:
        asked.append(lease)
        if len(asked) == 1:
            other.acquire("s", Owner.of_run("r9"), seconds=30, is_over=lambda _: True)
            return True  # about r1, and no word about r9
        return False

    with pytest.raises(StageBusyError, match="r9"):
        manager.acquire("s", TWO, seconds=30, is_over=is_over)
    assert len(asked) == 2


def test_no_lock_is_held_while_is_over_thinks(tmp_path: Path) -> None:
    manager, other = FileLockManager(tmp_path), FileLockManager(tmp_path)
    manager.acquire("s", ONE, seconds=30)

    def is_over(lease: object) -> bool:
        del lease
        other.renew("s", ONE, seconds=60)
        return False

    with pytest.raises(StageBusyError):
        manager.acquire("s", TWO, seconds=30, is_over=is_over)


def test_a_heartbeat_that_cannot_write_makes_the_stage_uncertain_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    manager = FileLockManager(tmp_path, clock=clock)
    manager.acquire("s", ONE, seconds=30)
    told = []
    manager.add_listener(lambda _stage, old, new: told.append((old.name, new.name)))
    alive = manager.keep_alive("s", ONE, seconds=30)
    with alive:
        with monkeypatch.context() as patch:
            patch.setattr(FileLockManager, "_write", _no_space)
            assert alive.beat()
            assert told == []
            clock.advance(31)
            assert alive.beat()
            assert alive.beat()
            assert told == [("LOCKED", "UNCERTAIN")]
            alive.check()
        assert alive.beat()
        assert told[1:] == [("UNCERTAIN", "LOCKED")]


def _no_space(*_: object) -> None:
    raise LockError("No space left on device")


def test_a_listener_that_fails_does_not_end_the_heartbeat(
    manager: FileLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(*_: object) -> None:
        raise ValueError("mine")

    manager.add_listener(listener)
    manager.acquire("s", ONE, seconds=30)
    assert "A lock listener failed" in caplog.text


def test_a_heartbeat_needs_a_positive_time_and_starts_once(manager: FileLockManager) -> None:
    manager.acquire("s", ONE, seconds=30)
    with pytest.raises(ValueError, match="positive"):
        manager.keep_alive("s", ONE, seconds=0)
    with manager.keep_alive("s", ONE, seconds=30) as alive, pytest.raises(LockError, match="already running"):
        alive.__enter__()


def test_a_heartbeat_of_a_lease_that_was_just_acquired_does_not_renew_it_at_once(manager: FileLockManager) -> None:
    lease = manager.acquire("s", ONE, seconds=30)
    with manager.keep_alive("s", ONE, seconds=30, lease=lease):
        assert manager.holder("s") == lease
    with manager.keep_alive("s", ONE, seconds=30):
        assert manager.holder("s") != lease


def test_disposing_keeps_the_leases(tmp_path: Path) -> None:
    with FileLockManager(tmp_path) as manager:
        manager.acquire("s", ONE, seconds=30)
    assert FileLockManager(tmp_path).state("s", ONE) is LockState.LOCKED


def test_a_take_over_is_logged_with_both_runs(manager: FileLockManager, caplog: pytest.LogCaptureFixture) -> None:
    manager.acquire("s", ONE, seconds=30)
    manager.acquire("s", TWO, seconds=30, is_over=lambda _: True)
    assert "Run r2 took over stage 's' from run r1" in caplog.text


def test_a_session_in_another_process_id_space_is_not_judged_by_its_process(tmp_path: Path) -> None:
    clock = Clock()
    manager = FileLockManager(tmp_path, clock=clock)
    # Another container with our host name: its process id means nothing here.
    elsewhere = Owner("r1", ONE.host, 2**22 - 1, 1.0, "pid:[1]")
    manager.acquire("s", elsewhere, seconds=30)
    with pytest.raises(StageBusyError):
        manager.acquire("s", TWO, seconds=30)
    clock.advance(31)
    manager.acquire("s", TWO, seconds=30)


@pytest.mark.skipif(os.name == "nt", reason="zombies and fork are POSIX")
def test_a_zombie_is_dead(tmp_path: Path) -> None:
    script = "import os, time; print(os.getpid(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read()  # to its end: the process has exited, or is about to, and nobody has waited for it
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Owner("r1", ONE.host, process.pid).is_dead


def test_importing_locks_and_blobs_is_cheap() -> None:
    script = (
        "import sys, pipedag_airflow.backend.lock, pipedag_airflow.backend.blob\n"
        "print([m for m in ('pandas', 'polars', 'sqlalchemy', 'airflow', 'duckdb', 'psutil') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
