from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pickle
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipedag_airflow.backend.blob import FileBlobStore
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import (
    BlobSignatureError,
    CacheError,
    ConfigError,
    StoreError,
    UnsupportedValueError,
)
from pipedag_airflow.testing.blob_suite import BlobStoreSuite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 60.0

posix_only = pytest.mark.skipif(os.name == "nt", reason="file modes and symbolic links are POSIX")


class TestFileBlobStore(BlobStoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], FileBlobStore]:
        return functools.partial(FileBlobStore, tmp_path / "blobs with blanks λ")


class TestFileBlobStoreWithoutSymbolicLinks(BlobStoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path, no_symlinks: None) -> Callable[[], FileBlobStore]:
        return functools.partial(FileBlobStore, tmp_path)


def test_blobs_that_nobody_knows_are_found_by_their_signature(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path)
    for name, generation in (("known", 1), ("x.g3", 40), ("λ", 2), ("shown", 5)):
        store.write(1, stage="s", name=name, generation=generation)
    store.link(stage="s", name="shown", location="s/shown.g5.pkl")
    store.write(1, stage="other", name="elsewhere", generation=1)
    folder = tmp_path / "s"
    (folder / "copied.g1.pkl").write_bytes((folder / "known.g1.pkl").read_bytes())
    (folder / "theirs.g1.pkl").write_bytes(pickle.dumps(1))
    (folder / ".hidden.g1.pkl").write_bytes(b"")

    others = store.others("s", {"s/known.g1.pkl"})

    assert sorted(others.values()) == [2, 5, 40]
    assert all(store.read(location) == 1 for location in others)
    assert store.others("no such stage", ()) == {}
    assert FileBlobStore(tmp_path, key="k" * 40).others("s", ()) == {}


@pytest.fixture
def no_symlinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("a required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEDAG_BLOB_KEY", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path)


class Bomb:
    """Unpickling it would be noticed."""

    went_off = False

    def __reduce__(self) -> tuple[object, ...]:
        return _explode, ()


def _explode() -> None:
    Bomb.went_off = True


# --- where things are -------------------------------------------------------------------------------------------------


def test_the_location_carries_the_generation_in_base_36(store: FileBlobStore, tmp_path: Path) -> None:
    assert store.write(1, stage="My Stage", name="a/b", generation=36) == "My Stage/a%2Fb.g10.pkl"
    assert (tmp_path / "My Stage" / "a%2Fb.g10.pkl").is_file()


def test_plain_pickle_reads_the_documented_path(store: FileBlobStore, tmp_path: Path) -> None:
    for generation in (3, 4):
        location = store.write({"generation": generation}, stage="s", name="b", generation=generation)
        store.link(stage="s", name="b", location=location)
        with (tmp_path / "s" / "b.pkl").open("rb") as file:
            assert pickle.load(file) == {"generation": generation}


@posix_only
def test_the_documented_path_is_a_relative_link(store: FileBlobStore, tmp_path: Path) -> None:
    store.link(stage="s", name="b", location=store.write(1, stage="s", name="b", generation=3))
    assert (tmp_path / "s" / "b.pkl").readlink().as_posix() == "b.g3.pkl"
    store.unlink(stage="s", name="b")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["b.g3.pkl"]


@pytest.mark.usefixtures("no_symlinks")
def test_without_symbolic_links_the_documented_path_is_a_copy(store: FileBlobStore, tmp_path: Path) -> None:
    test_plain_pickle_reads_the_documented_path(store, tmp_path)
    assert not (tmp_path / "s" / "b.pkl").is_symlink()
    store.unlink(stage="s", name="b")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["b.g3.pkl", "b.g4.pkl"]


@pytest.mark.parametrize("make", ["file", "link outside", "link beside", "folder"])
def test_what_we_did_not_make_at_the_documented_path_stays(store: FileBlobStore, tmp_path: Path, make: str) -> None:
    location = store.write(1, stage="s", name="b", generation=3)
    path = tmp_path / "s" / "b.pkl"
    (tmp_path / "s" / "theirs.pkl").write_bytes(pickle.dumps("theirs"))
    if make == "folder":
        path.mkdir()
    elif make == "file":
        path.write_bytes(pickle.dumps("theirs"))
    else:
        path.symlink_to("/etc/hostname" if make == "link outside" else "theirs.pkl")
    before = path.lstat()
    with pytest.raises(StoreError, match="left alone") as caught:
        store.link(stage="s", name="b", location=location)
    assert str(path) in str(caught.value)
    store.unlink(stage="s", name="b")
    assert path.lstat() == before


@posix_only
def test_a_link_whose_blob_is_gone_is_still_ours(store: FileBlobStore, tmp_path: Path) -> None:
    old, new = (store.write(1, stage="s", name="b", generation=generation) for generation in (1, 2))
    store.link(stage="s", name="b", location=old)
    store.drop(old)
    store.link(stage="s", name="b", location=new)
    assert (tmp_path / "s" / "b.pkl").resolve().name == "b.g2.pkl"
    store.drop(new)
    store.unlink(stage="s", name="b")
    assert list((tmp_path / "s").iterdir()) == []


names = st.one_of(st.text(max_size=12), st.sampled_from(["..", ".", "", "b", "b.g1", "b.g1.pkl", "b%2Eg1", "x" * 400]))


@given(st.lists(st.tuples(names, names, st.integers(0, 2000)), min_size=2, max_size=6, unique=True))
@example([("s", "b", 1), ("s", "b.g1", 1), ("s", "b%2Eg1", 1)])
@example([("s", "x" * 400, 1), ("s", "x" * 401, 1)])
def test_no_two_blobs_share_a_path(triples: list[tuple[str, str, int]]) -> None:
    store = FileBlobStore("/nowhere")
    from pipedag_airflow.backend.blob.file import _location

    locations = [_location(*triple) for triple in triples]
    assert len(set(locations)) == len(locations)
    documented = {store._documented(stage, name) for stage, name, _ in triples}
    assert documented.isdisjoint(store._path(location) for location in locations)
    for location in locations:
        assert all(len(part.encode()) <= 255 for part in location.split("/"))


@pytest.mark.parametrize(
    "location",
    [
        "../x.g1.pkl",
        "s/../x.g1.pkl",
        "/etc/x.g1.pkl",
        "s/t/x.g1.pkl",
        "x.g1.pkl",
        "./x.g1.pkl",
        "s//x.g1.pkl",
        "s/x.g1.pkl/",
        "s/.x.pkl",
        ".blob_key",
        "s/passwd",
        "C:\\x\\y.pkl",
        "s/..\\x.pkl",
        "s/x\0.pkl",
        "",
    ],
)
def test_a_location_that_leaves_the_store_is_refused(store: FileBlobStore, location: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.read(location),
        lambda: store.exists(location),
        lambda: store.drop(location),
        lambda: store.link(stage="s", name="b", location=location),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="is no location of a blob"):
            call()


def test_the_instance_id_is_a_folder_of_base_path(tmp_path: Path) -> None:
    store = FileBlobStore.from_config(SimpleNamespace(instance_id=" Team/Mid "), base_path=str(tmp_path), key="k")
    assert store.base_path == tmp_path / "team_mid"
    with pytest.raises(ConfigError, match=r"blob_store\.args.*bas_path"):
        FileBlobStore.from_config(SimpleNamespace(instance_id="i"), bas_path=str(tmp_path))


# --- signatures -------------------------------------------------------------------------------------------------------


def test_an_altered_file_is_refused_wherever_it_was_altered(store: FileBlobStore, tmp_path: Path) -> None:
    location = store.write({"a": 1}, stage="s", name="b", generation=1)
    path = tmp_path / location
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(BlobSignatureError):
            store.read(location)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(BlobSignatureError):
            store.read(location)
    path.write_bytes(good + b"x")
    with pytest.raises(BlobSignatureError):
        store.read(location)


def test_an_unsigned_file_is_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "old.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BlobSignatureError, match="trust_unsigned: true") as caught:
        FileBlobStore(tmp_path).read("s/old.pkl")
    assert str(path) in str(caught.value)
    assert not Bomb.went_off
    path.write_bytes(pickle.dumps("old"))
    assert FileBlobStore(tmp_path, trust_unsigned=True).read("s/old.pkl") == "old"


def test_trust_in_unsigned_files_is_no_trust_in_altered_ones(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, trust_unsigned=True)
    location = store.write([1], stage="s", name="b", generation=1)
    path = tmp_path / location
    path.write_bytes(pickle.dumps(Bomb()) + path.read_bytes())
    with pytest.raises(BlobSignatureError):
        store.read(location)
    length = path.read_bytes().index(b"\x00pipedag-blob") - 1
    data = bytearray(path.read_bytes())
    data[length - 3 : length + 1] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    with pytest.raises(BlobSignatureError):
        store.read(location)
    assert not Bomb.went_off


def test_files_cannot_be_exchanged_for_each_other(store: FileBlobStore, tmp_path: Path) -> None:
    mine = store.write("mine", stage="s", name="mine", generation=1)
    for stage, name, generation in [("s", "theirs", 1), ("t", "mine", 1), ("s", "mine", 2)]:
        theirs = store.write("theirs", stage=stage, name=name, generation=generation)
        (tmp_path / mine).write_bytes((tmp_path / theirs).read_bytes())
        with pytest.raises(BlobSignatureError, match=f"signed as '{theirs}', not as '{mine}'"):
            store.read(mine)


def test_another_key_reads_nothing(tmp_path: Path) -> None:
    location = FileBlobStore(tmp_path, key="one").write(1, stage="s", name="b", generation=1)
    with pytest.raises(BlobSignatureError, match="another key"):
        FileBlobStore(tmp_path, key="two").read(location)
    assert FileBlobStore(tmp_path, key="one").read(location) == 1


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_key_is_the_argument_else_the_environment_else_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from file\n")
    key_file.chmod(0o600)
    base = tmp_path / "base"

    def key_of(store: FileBlobStore) -> bytes:
        (key,) = store._keys()
        return key

    assert key_of(FileBlobStore(base, key_file=key_file)) == b"from file"
    monkeypatch.setenv("PIPEDAG_BLOB_KEY", "from environment")
    assert key_of(FileBlobStore(base, key_file=key_file)) == b"from environment"
    assert key_of(FileBlobStore(base, key="argument", key_file=key_file)) == b"argument"
    assert not base.exists()


def store_with_connection(tmp_path: Path) -> FileBlobStore:
    args = {"base_path": str(tmp_path), "conn_id": "blob_key"}
    part = {"class": "pipedag_airflow.backend.blob.FileBlobStore", "args": args}
    store = PipedagConfig({"instances": {"__any__": {"blob_store": part}}}).get().blob_store
    assert isinstance(store, FileBlobStore)
    return store


@pytest.mark.usefixtures("outside_of_airflow")
def test_the_key_may_be_the_password_of_an_airflow_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BLOB_KEY", "generic://:first-key@")
    location = store_with_connection(tmp_path).write(1, stage="s", name="b", generation=1)
    assert store_with_connection(tmp_path).read(location) == 1
    monkeypatch.setenv("AIRFLOW_CONN_BLOB_KEY", "generic://:other-key@")
    with pytest.raises(BlobSignatureError, match="conn_id"):
        store_with_connection(tmp_path).read(location)
    monkeypatch.setenv("AIRFLOW_CONN_BLOB_KEY", "generic://host")
    with pytest.raises(ConfigError, match=r"blob_store\.args\.conn_id: the connection 'blob_key' has no password"):
        store_with_connection(tmp_path)


@pytest.mark.usefixtures("outside_of_airflow")
def test_the_key_may_follow_from_airflows_fernet_key_also_while_that_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "old-one")
    location = FileBlobStore(tmp_path, fernet_key=True).write(1, stage="s", name="b", generation=1)
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "new-one, old-one")
    newer = FileBlobStore(tmp_path, fernet_key=True).write(2, stage="s", name="b", generation=2)
    assert FileBlobStore(tmp_path, fernet_key=True).read(location) == 1
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "new-one")
    assert FileBlobStore(tmp_path, fernet_key=True).read(newer) == 2
    with pytest.raises(BlobSignatureError):
        FileBlobStore(tmp_path, fernet_key=True).read(location)
    # The Fernet key itself signs nothing: who can sign a blob can still not read Airflow's passwords.
    with pytest.raises(BlobSignatureError):
        FileBlobStore(tmp_path, key="new-one").read(newer)
    monkeypatch.delenv("AIRFLOW__CORE__FERNET_KEY")
    with pytest.raises(StoreError, match="knows no Fernet key"):
        FileBlobStore(tmp_path, fernet_key=True).read(newer)


@pytest.mark.parametrize("other", [{"key": "x"}, {"key_file": "x"}])
def test_besides_the_fernet_key_there_is_no_other(tmp_path: Path, other: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="fernet_key: true, but key"):
        FileBlobStore(tmp_path, fernet_key=True, **other)


def test_the_own_key_is_made_once_and_for_its_user_only(tmp_path: Path) -> None:
    location = FileBlobStore(tmp_path).write(1, stage="s", name="b", generation=1)
    key = tmp_path / ".blob_key"
    if os.name != "nt":
        assert key.stat().st_mode & 0o777 == 0o600
    content = key.read_bytes()
    assert FileBlobStore(tmp_path).read(location) == 1
    assert key.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [".blob_key", "s"]


def test_without_hard_links_there_is_one_key_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not on this file system")

    monkeypatch.setattr("os.link", refuse)
    assert FileBlobStore(tmp_path)._keys() == FileBlobStore(tmp_path)._keys()
    assert [path.name for path in tmp_path.iterdir()] == [".blob_key"]


def send_key(base: Path, ready: Any, pipe: Any) -> None:
    ready.wait(PATIENCE)
    pipe.send(FileBlobStore(base)._keys())


def test_processes_that_race_for_a_key_end_with_one(tmp_path: Path) -> None:
    ready = SPAWN.Barrier(6)
    pipes, processes = [], []
    for _ in range(6):
        ours, theirs = SPAWN.Pipe()
        processes.append(SPAWN.Process(target=send_key, args=(tmp_path / "new", ready, theirs), daemon=True))
        processes[-1].start()
        pipes.append(ours)
    keys = set()
    for pipe in pipes:
        assert pipe.poll(PATIENCE)
        keys.add(pipe.recv())
    for process in processes:
        process.join(PATIENCE)
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".blob_key"]


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    for store, path in [
        (FileBlobStore(tmp_path), tmp_path / ".blob_key"),
        (FileBlobStore(tmp_path, key_file=tmp_path / "key"), tmp_path / "key"),
    ]:
        path.write_text("secret")
        path.chmod(mode)
        with pytest.raises(StoreError, match=f"chmod 600 {path}") as caught:
            store.write(1, stage="s", name="b", generation=1)
        assert "secret" not in str(caught.value)


def test_a_key_file_that_was_named_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="openssl rand"):
        FileBlobStore(tmp_path, key_file=tmp_path / "missing").write(1, stage="s", name="b", generation=1)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="empty"):
        FileBlobStore(tmp_path, key="").write(1, stage="s", name="b", generation=1)
    monkeypatch.setenv("PIPEDAG_BLOB_KEY", " ")
    with pytest.raises(StoreError, match="PIPEDAG_BLOB_KEY"):
        FileBlobStore(tmp_path).write(1, stage="s", name="b", generation=1)


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert "secret" not in repr(FileBlobStore(tmp_path, key="secret"))


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", [lambda: 1, threading.Lock(), (i for i in ())], ids=["lambda", "lock", "generator"])
def test_what_cannot_be_pickled_leaves_nothing_behind(store: FileBlobStore, tmp_path: Path, obj: object) -> None:
    with pytest.raises(UnsupportedValueError, match="'b' of stage 's'") as caught:
        store.write([b"x" * 1_000_000, obj], stage="s", name="b", generation=1)
    assert "builtins.list" in str(caught.value)
    assert list((tmp_path / "s").iterdir()) == []


def test_a_class_that_is_gone_is_named(store: FileBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_flow_of_ours.py").write_text("class Model:\n    pass\n")
    module = importlib.import_module("a_flow_of_ours")
    location = store.write(module.Model(), stage="s", name="b", generation=1)
    monkeypatch.delitem(sys.modules, "a_flow_of_ours")
    (tmp_path / "a_flow_of_ours.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(StoreError, match="a_flow_of_ours") as caught:
        store.read(location)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert "must be importable" in str(caught.value)
    assert location in str(caught.value)


def test_a_missing_file_is_named(store: FileBlobStore, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=str(tmp_path / "s" / "b.g1.pkl")):
        store.read("s/b.g1.pkl")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, key="k")
    (tmp_path / "s").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path / "s" / "b.g1.pkl")):
        store.write(1, stage="s", name="b", generation=1)


class HangsWhilePickled:
    def __getstate__(self) -> dict[str, object]:
        HangsWhilePickled.reached.set()  # type: ignore[attr-defined]
        threading.Event().wait()
        return {}


def write_and_hang(base: Path, reached: object) -> None:
    HangsWhilePickled.reached = reached  # type: ignore[attr-defined]
    FileBlobStore(base).write([b"x" * 1_000_000, HangsWhilePickled()], stage="s", name="b", generation=1)


def test_a_writer_that_is_killed_leaves_the_old_object(store: FileBlobStore, tmp_path: Path) -> None:
    location = store.write("old", stage="s", name="b", generation=1)
    reached = SPAWN.Event()
    process = SPAWN.Process(target=write_and_hang, args=(tmp_path, reached), daemon=True)
    process.start()
    assert reached.wait(PATIENCE)
    process.kill()
    process.join(PATIENCE)
    assert store.read(location) == "old"
    (left,) = (tmp_path / "s").glob(".*.tmp")
    # Kept while its writer could still live, and swept by a later process.
    FileBlobStore(tmp_path).write("new", stage="s", name="b", generation=2)
    assert left.exists()
    os.utime(left, (0, 0))
    FileBlobStore(tmp_path).write("new", stage="s", name="b", generation=2)
    assert not left.exists()
