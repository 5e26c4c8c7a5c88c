"""What ``lock_manager.args`` of pipedag.yaml may say about a ZooKeeper, tried on real servers."""

from __future__ import annotations

import gc
import ipaddress
import json
import logging
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipedag_airflow import PipedagConfig
from pipedag_airflow.backend.lock import Owner, ZooKeeperLockManager, znodes
from pipedag_airflow.config.connections import Connection
from pipedag_airflow.errors import ConfigError, LockError
from pipedag_airflow.testing.zookeeper import Ensemble, free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from kazoo.client import KazooClient

OWNER = Owner.this_process("local:r1")
PASSWORD = "open sesame"


def configured(**args: Any) -> ZooKeeperLockManager:
    """The lock manager of a pipedag.yaml with these arguments."""
    instance = {
        "instance_id": "shop/main",
        "table_store": {"class": "pipedag_airflow.backend.table.SQLTableStore", "args": {"url": "duckdb:///x.duckdb"}},
        "blob_store": {"class": "pipedag_airflow.backend.blob.FileBlobStore", "args": {"base_path": "blobs"}},
        "lock_manager": {"class": "pipedag_airflow.backend.lock.ZooKeeperLockManager", "args": args},
        "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
        "stage_commit_technique": "read_views",
    }
    manager: ZooKeeperLockManager = PipedagConfig({"instances": {"__any__": instance}}).get().lock_manager
    return manager


@pytest.fixture
def root(hosts: str, base_path: str, look: KazooClient) -> str:
    """Servers with a root of the test's own."""
    look.ensure_path(base_path)
    return hosts + base_path


def test_each_instance_has_a_path_of_its_own(root: str, base_path: str, look: KazooClient) -> None:
    with configured(hosts=root) as manager:
        manager.acquire("raw", OWNER, seconds=30)
    (instance,) = look.get_children(f"{base_path}/pipedag_airflow/locks")
    assert instance.startswith("shop")
    assert look.get_children(f"{base_path}/pipedag_airflow/locks/{instance}") == ["raw"]


def test_what_is_stored_is_for_those_who_have_the_password(
    root: str, base_path: str, look: KazooClient, caplog: pytest.LogCaptureFixture
) -> None:
    """And no log shows it, even at the level at which kazoo logs each request."""
    caplog.set_level(logging.DEBUG)
    ours = {"default_acl": [{"scheme": "auth", "credential": "", "all": True}]}
    with configured(hosts=root, auth_data=[["digest", f"pipedag:{PASSWORD}"]], **ours) as manager:
        manager.acquire("raw", OWNER, seconds=30)
        with (
            configured(hosts=root) as stranger,
            pytest.raises(LockError, match=r"NoAuthError.*lock_manager\.args\.auth_data"),
        ):
            stranger.acquire("raw", OWNER, seconds=30)
        manager.release("raw", OWNER)
    look.add_auth("digest", f"pipedag:{PASSWORD}")
    (entry,) = look.get_acls(f"{base_path}/pipedag_airflow")[0]
    assert (entry.id.scheme, entry.id.id.partition(":")[0]) == ("digest", "pipedag")
    assert "Sending request" in caplog.text
    assert PASSWORD not in caplog.text


# kazoo leaves a socket open over which it was refused.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_tls_with_a_certificate_of_each_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, both = certificate_in(tmp_path)
    (port,) = free_ports(1)
    settings = {
        "secureClientPort": port,
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": both,
        "ssl.trustStore.location": certificate,
        "ssl.hostnameVerification": "false",
    }
    trust = {"hosts": f"127.0.0.1:{port}", "use_ssl": True, "ca": str(certificate), "check_hostname": True}
    with Ensemble(1, settings):
        with configured(**trust, certfile=str(certificate), keyfile=str(key)) as manager:
            assert manager.acquire("raw", OWNER, seconds=30).owner == OWNER
        monkeypatch.setattr(znodes, "ANSWER_SECONDS", 1.0)
        with configured(**trust) as stranger, pytest.raises(LockError, match=r"accepts lock_manager\.args"):
            stranger.acquire("raw", OWNER, seconds=30)
    gc.collect()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"host": "zoo:2181"}, r"lock_manager\.args\.host is not.*did you mean 'hosts'"),
        ({"read_only": True}, r"lock_manager\.args\.read_only is not for locks"),
        ({"auth_data": [f"digest:pipedag:{PASSWORD}"]}, r"auth_data is a list of \[scheme, credential\]"),
        ({"default_acl": ["all"]}, r"default_acl a list of \{scheme"),
    ],
)
def test_arguments_that_do_not_fit_are_named_and_not_shown(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        configured(**args)
    assert PASSWORD not in str(caught.value)


def test_without_kazoo_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kazoo"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("zookeeper", "znodes"):
        monkeypatch.delitem(sys.modules, f"pipedag_airflow.backend.lock.{name}")
    with pytest.raises(ConfigError, match=r"pip install 'pipedag-airflow\[zookeeper\]'"):
        configured(hosts="127.0.0.1")


def certificate_in(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate of 127.0.0.1 that signs itself, its key, and both in one file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pipedag")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = {"certificate": certificate, "key": secret, "both": secret + certificate}
    for file, content in files.items():
        (folder / f"{file}.pem").write_bytes(content)
    return folder / "certificate.pem", folder / "key.pem", folder / "both.pem"


@pytest.mark.usefixtures("outside_of_airflow")
def test_an_airflow_connection_has_the_servers_the_root_and_the_credentials(
    hosts: str, base_path: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acl = [{"scheme": "auth", "credential": "", "all": True}]
    connection = {
        "conn_type": "zookeeper",
        "host": hosts,
        "schema": base_path,
        "login": "pipedag",
        "password": PASSWORD,
    }
    monkeypatch.setenv("AIRFLOW_CONN_ZOO", json.dumps(connection | {"extra": {"timeout": 30, "default_acl": acl}}))
    with configured(conn_id="zoo") as manager:
        manager.acquire("raw", OWNER, seconds=30)
        assert manager._connection.session_seconds == 30
    with configured(hosts=root) as stranger, pytest.raises(LockError, match=r"NoAuthError.*auth_data"):
        stranger.holder("raw")
    with configured(conn_id="zoo") as manager:
        assert manager.holder("raw").owner == OWNER


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"host": "zoo1", "port": 2281}, {"hosts": "zoo1:2281"}),
        ({"host": "zoo1,zoo2", "port": 2281, "schema": "team"}, {"hosts": "zoo1:2281,zoo2:2281/team"}),
        ({"host": "zoo1:1,zoo2:2", "schema": "/team/"}, {"hosts": "zoo1:1,zoo2:2/team"}),
        ({"host": "zoo", "login": "u", "password": "p"}, {"hosts": "zoo", "auth_data": [["digest", "u:p"]]}),
        ({"host": "zoo", "extra": {"use_ssl": True}}, {"hosts": "zoo", "use_ssl": True}),
    ],
)
def test_what_the_fields_of_a_connection_mean(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ZooKeeperLockManager.connection_args(Connection("zoo", "zookeeper", **given)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "'zoo' has no host"), ({"host": "zoo", "extra": {"timeout": "10"}}, "'zoo' has timeout as text")],
)
def test_a_connection_that_cannot_be_one_is_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ZooKeeperLockManager.connection_args(Connection("zoo", "zookeeper", **given))
