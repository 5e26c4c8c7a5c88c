"""`pipedag-airflow check`: each connection tried, one line each, and no secret in any of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipedag_airflow import PipedagConfig
from pipedag_airflow.backend.blob import NoBlobStore
from pipedag_airflow.cli import main
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTION: dict[str, Any] = {
    "instance_id": "shop",
    "table_store": {"class": "pipedag_airflow.backend.table.SQLTableStore", "args": {"url": "duckdb:///shop.duckdb"}},
    "blob_store": {"class": "pipedag_airflow.backend.blob.FileBlobStore", "args": {"base_path": "blobs"}},
    "lock_manager": {"class": "pipedag_airflow.backend.lock.FileLockManager", "args": {"base_path": "locks"}},
    "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
}
NO_LOCKS = {"class": "pipedag_airflow.backend.lock.NoLockManager"}
FLOW = "from pipedag_airflow import Flow\nwith Flow({name!r}) as flow_{number}:\n    pass\n"


class TalkativeStore(NoBlobStore):
    """Fails like somebody else's class: with an error of its own, over several lines, that tells the password."""

    def __init__(self, url: str) -> None:
        self.url = url

    def check(self) -> str:
        raise OSError(f"cannot reach\n{self.url}")


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Write pipedag.yaml beside flow.py, run the command, and return its exit code and what it printed."""
    for variable in ("PIPEDAG_CONFIG", "PIPEDAG_HOME", "PIPEDAG_BLOB_KEY"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str, flows: dict[str, Any] | None = None, **changes: Any) -> tuple[int, list[str]]:
        data = {"instances": {"__any__": SECTION | changes, "test": {"instance_id": "shop_test"}}, "flows": flows or {}}
        (tmp_path / "pipedag.yaml").write_text(yaml.safe_dump(data))
        code = main(["check", str(tmp_path / "flow.py"), *arguments])
        printed = capsys.readouterr()
        return code, (printed.out + printed.err).splitlines()

    return run


def test_everything_works(check: Callable[..., tuple[int, list[str]]], tmp_path: Path) -> None:
    code, told = check()

    assert code == 0
    metadata = "the metadata are those of instance 'shop'"
    database = f"duckdb:///{tmp_path}/shop.duckdb: connected, {metadata}, a schema can be made"
    assert told == [
        f"configuration: {tmp_path}/pipedag.yaml, instance __any__",
        f"table store    ok      {database}",
        f"blob store     ok      FileBlobStore('{tmp_path}/blobs/shop'): a blob was written, read and removed",
        "lock manager   ok      FileLockManager: a lease was taken, renewed and given back",
        "orchestration  ok      SequentialEngine can be built",
    ]


def with_table_cache(folder: str) -> dict[str, Any]:
    cache = {"class": "parquet", "args": {"base_path": folder}}
    return {"table_store": SECTION["table_store"] | {"local_table_cache": cache}}


def test_a_local_table_cache_is_tried_if_there_is_one(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    code, told = check(**with_table_cache("tables"))
    assert code == 0
    place = f"ParquetTableCache('{tmp_path}/tables/shop')"
    assert told[2] == f"table cache    ok      {place}: a copy was written, read and removed"
    assert list((tmp_path / "tables" / "shop").iterdir()) == []


def test_a_local_table_cache_that_cannot_write_is_told(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "tables").write_text("no folder")
    code, told = check(**with_table_cache("tables"))
    assert code == 1
    assert told[2].startswith(f"table cache    FAILED  Copies of tables cannot be kept in {tmp_path}/tables/shop: ")


def test_nothing_is_left_behind_in_the_database_and_among_the_blobs(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    for _ in range(2):
        assert check()[0] == 0

    store = PipedagConfig(tmp_path).get().table_store
    with store.connection() as connection:
        assert store.list_objects(connection, ["pipedag_metadata", "pipedag_check"]) == {}
    assert [path.name for path in (tmp_path / "blobs" / "shop").iterdir()] == [".blob_key"]


def test_the_instance_is_chosen(check: Callable[..., tuple[int, list[str]]]) -> None:
    code, told = check("--instance", "test")
    assert code == 0
    assert "instance 'shop_test'" in told[1]

    code, told = check("--instance", "tset")
    assert code == 1
    assert re.search("^pipedag-airflow: .*no instance 'tset'.*'test'", told[0])


BAD_URL = "duckdb:////dev/null/shop.duckdb"
TALKATIVE = {"class": f"{__name__}.TalkativeStore", "args": {"url": "https://me:s3cret@blobs.example"}}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        (
            {"table_store": {**SECTION["table_store"], "args": {"url": BAD_URL}}},
            {"table store": r"duckdb:////dev/null/shop.duckdb cannot be made"},
        ),
        (
            {"table_store": {**SECTION["table_store"], "args": {"url": "oracle://me:s3cret@host/db"}}},
            {"table store": r"pipedag.yaml \(instance '__any__'\): table_store: .* no table store for 'oracle'"},
        ),
        (
            {"blob_store": {**SECTION["blob_store"], "args": {"base_path": "/dev/null"}}},
            {"blob store": r"/dev/null/shop/.blob_key, which signs blobs, cannot be read: .* by PIPEDAG_BLOB_KEY"},
        ),
        ({"blob_store": TALKATIVE}, {"blob store": r"OSError: cannot reach https://\*\*\*@blobs.example"}),
        (
            {"lock_manager": {**SECTION["lock_manager"], "args": {"base_path": "/dev/null"}}},
            {"lock manager": "/dev/null/shop/.* cannot be read: .* Give this user access"},
        ),
        (
            {"lock_manager": {"class": "somewhere.Locks"}, "orchestration": {}},
            {"lock manager": "'somewhere.Locks', which cannot be imported", "orchestration": "class is missing"},
        ),
    ],
)
def test_what_fails_is_told_in_its_line_with_what_to_do_and_the_rest_is_tried(
    check: Callable[..., tuple[int, list[str]]], changes: dict[str, Any], failed: dict[str, str]
) -> None:
    code, told = check(**changes)

    assert code == 1
    assert len(told) == 5
    for line in told[1:]:
        name, outcome = line[:15].strip(), line[15:23].strip()
        assert outcome == ("FAILED" if name in failed else "ok"), line
        assert re.search(failed.get(name, ""), line), line
    assert "s3cret" not in "".join(told)


def test_a_user_who_may_not_write_is_told_what_to_ask_for(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    with (
        PipedagConfig({"instances": {"__any__": SECTION}})
        .get()
        .evolve(config_dict=SECTION | {"table_store": at(f"duckdb:///{tmp_path}/shop.duckdb")})
        .table_store.transaction()
    ):
        pass  # makes the metadata

    code, told = check(table_store=at("duckdb:///shop.duckdb?access_mode=read_only"))

    assert code == 1
    assert re.search(r"no schema can be made \(tried: 'pipedag_check'\): .*Allow the user of the URL to make", told[1])

    code, told = check(table_store=at("duckdb:///shop.duckdb?access_mode=read_only", avoid_drop_create_schema=True))
    assert told[1].endswith("the metadata are those of instance 'shop', schemas are left to others")


def at(url: str, **arguments: Any) -> dict[str, Any]:
    return SECTION["table_store"] | {"args": {"url": url, **arguments}}


def test_metadata_of_another_instance_are_told(check: Callable[..., tuple[int, list[str]]], tmp_path: Path) -> None:
    check()
    with PipedagConfig(tmp_path).get().table_store.transaction():
        pass

    code, told = check("--instance", "test")

    assert code == 1
    assert "belongs to the instance 'shop', but this run is of instance 'shop_test'" in told[1]


def test_no_locks_and_no_blobs_are_fine(check: Callable[..., tuple[int, list[str]]]) -> None:
    code, told = check(lock_manager=NO_LOCKS, blob_store={"class": "pipedag_airflow.backend.blob.NoBlobStore"})

    assert code == 0
    assert told[2:4] == [
        "blob store     ok      this instance stores no blobs",
        "lock manager   ok      NoLockManager: locks nothing, which is fine for one run at a time",
    ]


def test_a_blob_store_that_loses_what_it_stored_is_told() -> None:
    class Forgetful(NoBlobStore):
        check = NoBlobStore.__base__.check  # type: ignore[union-attr,assignment] # that of all blob stores

        def write(self, obj: Any, *, stage: str, name: str, generation: int) -> Any:
            del obj, stage, name, generation
            return "nowhere"

        def drop(self, location: str) -> Any:
            del location

    with pytest.raises(StoreError, match="The blob at 'nowhere' cannot be loaded"):
        Forgetful().check()


@pytest.mark.parametrize(
    ("content", "arguments", "told"),
    [
        (FLOW.format(name="a", number=1), [], r"^configuration: .*, instance __any__, flow a$"),
        (FLOW.format(name="a", number=1), ["--flow", "b"], r"^configuration: .*, instance __any__, flow b$"),
        ("import neighbour\n" + FLOW.format(name="c", number=1), [], r"^configuration: .*, instance __any__, flow c$"),
        (
            FLOW.format(name="a", number=1) + FLOW.format(name="b", number=2),
            [],
            r"^pipedag-airflow: .*flow.py has the flows a, b. Name the flow with --flow",
        ),
        ("from neighbour import flow_1", [], r"^pipedag-airflow: .*flow.py has no flow in a global variable. Name the"),
        ("1 / 0", [], r"^pipedag-airflow: .*flow.py cannot be run: ZeroDivisionError: .*Mend it, or: Name the flow"),
    ],
)
def test_where_the_configuration_depends_on_the_flow_its_name_is_taken_from_the_file(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path, content: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "flow.py").write_text(content)
    (tmp_path / "neighbour.py").write_text(FLOW.format(name="of the neighbour", number=1))

    lines = check(*arguments, flows={name: {"instance_id": f"of_{name}"} for name in ("a", "b", "c")})[1]

    assert re.search(told, lines[0]), lines[0]


def test_a_file_is_not_run_where_the_configuration_does_not_depend_on_it(
    check: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "flow.py").write_text("1 / 0")
    assert check(flows={"__any__": {"fail_fast": True}})[0] == 0
