"""Copies of tables as Parquet files in a folder of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.backend.lock.files import file_name, instance_folder, sync_folder
from pipedag_airflow.backend.table.cache.base import SECTION, TableCache
from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.core.fingerprint import random_fingerprint
from pipedag_airflow.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    import pyarrow as pa

    from pipedag_airflow.config import ConfigContext

__all__ = ["ParquetTableCache"]

#: In the metadata of a file: whose copy it is.
_MARK = b"pipedag"
#: Where Arrow notes the types that Parquet itself does not have.
_ARROW_TYPES = b"ARROW:schema"
_CHECK_STAGE = "pipedag_check"

_COPY = re.compile(r"(?P<table>[^.].*)\.[a-z2-7]{20}\.parquet")
_LEFTOVER = re.compile(r"\..+\.[a-z2-7]{20}\.parquet\.\d+\.[0-9a-f]{8}\.tmp")
#: What a generated name ends in: a hash that is new in every version, and the number of the output.
_GENERATED = re.compile(r"[a-z2-7]{20}_(?=\d{4}$)")
_DAY = 24 * 3600
_UNUSED_SECONDS = 30 * _DAY


class ParquetTableCache(TableCache):
    """Keeps copies of tables in ``base_path/STAGE/TABLE.<id>.parquet``, for pandas and polars.

    A file is written under another name, reaches the disk, and then gets its own name: it is there whole or not at
    all. It says in itself which table it is a copy of, and has a checksum for each of its pages. A file that does not
    fit is not read.

    A write removes what it follows: of the same table, what nobody has read for a day; of the others of the stage, what
    nobody has read for 30 days. The folder may be deleted at any time when no task is running.

    Args:
        *args: The options of :class:`TableCache`, in their order.
        base_path: A local folder. From pipedag.yaml the instance id is appended to it.
        **kwargs: The options of :class:`TableCache`, by their names.

    Raises:
        ConfigError: If ``base_path`` is a URL.
    """

    def __init__(self, *args: Any, base_path: str | Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "://" in str(base_path):
            raise ConfigError(
                f"{SECTION}.args.base_path is {str(base_path)!r}, but must be a folder of this machine: copies that "
                "are read over a network spare nothing. Name a local folder, such as /var/cache/pipedag."
            )
        # Absolute now: a task may change the working folder later.
        self.base_path = Path(base_path).expanduser().absolute()

    @classmethod
    def from_config(cls, context: ConfigContext, **args: Any) -> Self:
        """Make the cache that pipedag.yaml describes; see :meth:`TableCache.from_config`.

        Args:
            context: The configuration of the instance; its id is appended to ``base_path``.
            **args: ``table_store.local_table_cache.args``.
        """
        if "base_path" in args and "://" not in str(args["base_path"]):
            args["base_path"] = Path(args["base_path"]) / instance_folder(context.instance_id)
        return super().from_config(context, **args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.base_path)!r})"

    def read(self, location: TableLocation) -> pa.Table | None:
        """Return a copy; see :meth:`TableCache.read`."""
        with self._opened(location) as file:
            if file is None:
                return None
            types = _types(file)
            return file.read().replace_schema_metadata(None).cast(types)

    def scan(self, location: TableLocation) -> pl.LazyFrame | None:
        """Return a frame over the file; see :meth:`TableCache.scan`."""
        import polars as pl

        with self._opened(location) as file:
            if file is None:
                return None
            empty = pl.from_arrow(_types(file).empty_table())
        assert isinstance(empty, pl.DataFrame)
        # No statistics: they leave NaN out, which polars takes for larger than every number.
        frame = pl.scan_parquet(self._path(location), glob=False, hive_partitioning=False, use_statistics=False)
        return frame if frame.collect_schema() == empty.schema else None

    @contextlib.contextmanager
    def _opened(self, location: TableLocation) -> Iterator[Any]:
        """Open the file of a copy, None if there is none.

        Raises:
            ValueError: If it is the copy of something else.
        """
        import pyarrow.parquet as pq

        path = self._path(location)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError:
            yield None
            return
        with file:
            mark = (file.metadata.metadata or {}).get(_MARK)
            if mark != _mark(location):
                raise ValueError(f"{path} is a file of somebody else: it says that it is {mark!r}")
            with contextlib.suppress(OSError):  # a folder that we may only read
                os.utime(path)
            yield file

    def write(self, location: TableLocation, table: pa.Table) -> None:
        """Write a copy; see :meth:`TableCache.write`."""
        import pyarrow.parquet as pq

        path = self._path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                pq.write_table(table.replace_schema_metadata({_MARK: _mark(location)}), file, write_page_checksum=True)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        self._sweep(path)

    def _sweep(self, written: Path) -> None:
        """Remove the copies that a new one follows, and what processes that were killed have left."""
        now = time.time()
        for path in written.parent.iterdir():
            if path != written and (longest := _longest_unused(path.name, written.name)) is not None:
                with contextlib.suppress(OSError):  # another process may be at it
                    if path.lstat().st_mtime < now - longest:
                        path.unlink()

    def check(self) -> str:
        """Try the cache; see :meth:`TableCache.check`. The folder is made as on first use."""
        import pyarrow as pa

        location = TableLocation(_CHECK_STAGE, "table", "", "", (), id=random_fingerprint())
        path, table = self._path(location), pa.table({"a": ["a try"]})
        try:
            self.write(location, table)
            found = self.read(location)
            path.unlink()
        except Exception as error:
            raise StoreError(
                f"Copies of tables cannot be kept in {self.base_path}: {type(error).__name__}: {error}. Runs go on, "
                f"but read every table from the database. Give this user the folder, or name another one in "
                f"{SECTION}.args.base_path."
            ) from error
        with contextlib.suppress(OSError):  # another check may be at it
            path.parent.rmdir()
        if found is None or not found.equals(table):
            raise StoreError(f"A copy of a table that was written to {path} is another one when it is read: {found}.")
        return f"{self!r}: a copy was written, read and removed"

    def _path(self, location: TableLocation) -> Path:
        assert location.id is not None, "only what has an id is cached"
        return self.base_path / file_name(location.stage) / f"{file_name(location.name)}.{location.id}.parquet"


def _mark(location: TableLocation) -> bytes:
    return json.dumps([location.stage, location.name, location.id]).encode()


def _types(file: Any) -> pa.Schema:
    """Return the types that were written; those of Parquet are fewer."""
    import pyarrow as pa

    noted = base64.b64decode(file.metadata.metadata[_ARROW_TYPES])
    return pa.ipc.read_schema(pa.py_buffer(noted)).remove_metadata()


def _longest_unused(name: str, written: str) -> float | None:
    """Return for how many seconds nobody may have read a file that stays, None if it is none of ours."""
    if _LEFTOVER.fullmatch(name):
        return _DAY
    if not _COPY.fullmatch(name):
        return None
    # A lazy frame reads its file when it is collected, so even a copy that nobody will ask for again stays for a while.
    return _DAY if _series(name) == _series(written) else _UNUSED_SECONDS


def _series(name: str) -> str:
    """Return what the copies of a table have in common, though a generated name is another one in each version."""
    match = _COPY.fullmatch(name)
    return "" if match is None else _GENERATED.sub("", match["table"])
