"""docker/ as far as it can be tried without a Docker engine; docker/README.md says what that leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml

from pipedag_airflow.testing.postgres import own_postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.testing.postgres import OwnPostgresServer, PostgresServer
    from pipedag_airflow.testing.zookeeper import Ensemble

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
PROGRAMS = Path(sys.executable).parent

#: Which options Airflow has with its providers, and whether it understands commands.
AIRFLOW = """
import json
import sys

from airflow.cli.cli_parser import get_parser
from airflow.configuration import retrieve_configuration_description

for command in json.load(sys.stdin):
    get_parser().parse_args(command)
described = retrieve_configuration_description(include_providers=True)
print(json.dumps([f"{section}.{option}" for section in described for option in described[section]["options"]]))
"""


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .env that the command in the README makes."""
    folder = tmp_path_factory.mktemp("docker")
    shutil.copy(DOCKER / ".env.example", folder)
    (command,) = re.findall(r"^umask .*\nwhile .* >\.env$", (DOCKER / "README.md").read_text(), re.MULTILINE)
    assert run("sh", "-c", command, cwd=folder).returncode == 0
    return folder / ".env"


def test_nobody_else_may_read_the_secrets_at_any_time(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o600


def values(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if not line.startswith("#"))


def compose(secrets: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose, which reads the file without an engine."""
    # What it is to be told, it is told by the file: of the environment it needs its own program's path alone.
    arguments = ("--env-file", secrets, "--file", DOCKER / "compose.yaml", *command)
    return run(PROGRAMS / "docker-compose", *arguments, env={"PATH": os.environ["PATH"]})


@pytest.fixture(scope="module")
def services(secrets: Path) -> dict[str, Any]:
    """The services as Docker Compose understands them."""
    done = compose(secrets, "config", "--no-env-resolution", "--format", "json")
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def of_airflow(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if service["image"] == "pipedag-airflow"}


def test_all_services_are_there_and_what_others_wait_for_is_checked(services: dict[str, Any]) -> None:
    own = {"init", "api-server", "scheduler", "dag-processor", "triggerer", "worker-1", "worker-2"}
    assert set(of_airflow(services)) == own
    assert set(services) == own | {"postgres", "redis", "zookeeper"}
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"init"}
    for service in services.values():
        waits = {name: need["condition"] for name, need in service.get("depends_on", {}).items()}
        once = {"init": "service_completed_successfully"}
        assert waits == {name: once.get(name, "service_healthy") for name in waits}


def test_workers_are_alike_and_have_names_and_blobs(services: dict[str, Any]) -> None:
    first, second = services["worker-1"], services["worker-2"]
    assert first | {"hostname": "worker-2"} == second
    assert [volume["target"] for volume in first["volumes"]] == [
        yaml.safe_load((DOCKER / "pipedag.yaml").read_text())["instances"]["__any__"]["blob_store"]["args"]["base_path"]
    ]


def test_what_is_mounted_is_there(services: dict[str, Any]) -> None:
    mounted = [volume for service in services.values() for volume in service.get("volumes", [])]
    assert [Path(volume["source"]) for volume in mounted if volume["type"] == "bind"] == [DOCKER / "databases.sh"]
    assert os.access(DOCKER / "databases.sh", os.X_OK)


def test_only_the_ui_can_be_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(ports) == ["api-server"]
    assert [port["host_ip"] for port in ports["api-server"]] == ["127.0.0.1"]


def test_each_secret_is_needed(secrets: Path, tmp_path: Path) -> None:
    given = values(secrets)
    assert len(set(given.values())) == len(given)
    for missing in given:
        file = tmp_path / missing
        file.write_text("".join(f"{name}={value if name != missing else ''}\n" for name, value in given.items()))
        done = compose(file, "config", "--quiet")
        assert done.returncode != 0
        assert f"required variable {missing} is missing a value" in done.stderr


def test_secrets_of_flows_are_where_steps_of_flows_are(services: dict[str, Any], secrets: Path) -> None:
    where = {name for name, service in services.items() if "ZOOKEEPER_PASSWORD" in service.get("environment", {})}
    assert where == {"dag-processor", "triggerer", "worker-1", "worker-2"}
    text = (DOCKER / "pipedag.yaml").read_text()
    assert (
        set(re.findall(r"\{\$(\w+)\}", text)) == {"PIPEDAG_DB_PASSWORD", "ZOOKEEPER_PASSWORD"} <= set(values(secrets))
    )


def test_settings_and_commands_are_those_of_airflow(services: dict[str, Any], tmp_path: Path) -> None:
    airflows = of_airflow(services)
    commands = [service["command"] for service in airflows.values()]
    checks = [
        shlex.split(service["healthcheck"]["test"][-1]) for service in airflows.values() if "healthcheck" in service
    ]
    commands += [check[1:] for check in checks if check[0] == "airflow"]
    assert len(commands) == 9
    settings = {
        name for service in airflows.values() for name in service["environment"] if name.startswith("AIRFLOW__")
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    done = run(
        sys.executable,
        "-c",
        AIRFLOW,
        input=json.dumps(commands),
        env=env | {"AIRFLOW_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    options = set(json.loads(done.stdout.splitlines()[-1]))
    asked = {name.removeprefix("AIRFLOW__").replace("__", ".").lower() for name in settings}
    assert len(asked) > 10
    assert asked - options == set()


def test_the_image_has_the_tested_airflow_and_what_it_copies_is_there() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if ";" not in line)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {
        f"apache/airflow:slim-{pins['apache-airflow']}-python3.12"
    }
    copies = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).*", text, re.MULTILINE)]
    sources = {source for copy in copies for source in copy if not source.startswith("--")}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(PROGRAMS / "hadolint", DOCKER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[OwnPostgresServer]:
    """A PostgreSQL of the test's own, if there is any: the users that the script makes are those of a whole server."""
    with own_postgres_server() as server:
        yield server


def connect(url: sa.URL) -> sa.Connection:
    return sa.create_engine(url, poolclass=sa.NullPool).connect()


def test_the_flows_have_their_database_and_their_locks(
    server: OwnPostgresServer, zookeeper_server: Ensemble, secrets: Path, tmp_path: Path
) -> None:
    at = {"PGHOST": "127.0.0.1", "PGPORT": str(server.url.port), "POSTGRES_USER": "postgres"}
    path = f"{server.binaries}:{os.environ['PATH']}"
    done = run(DOCKER / "databases.sh", env=os.environ | at | values(secrets) | {"PATH": path})
    assert done.returncode == 0, done.stderr
    for user, other in (("airflow", "pipedag"), ("pipedag", "airflow")):
        url = server.url.set(username=user, database=user)
        with connect(url) as connection:
            assert connection.scalar(sa.text("select has_database_privilege(current_database(), 'CREATE')"))
        with pytest.raises(sa.exc.OperationalError, match=f'permission denied for database "{other}"'):
            connect(url.set(database=other))

    text = (DOCKER / "pipedag.yaml").read_text()
    for there, here in {
        "@postgres/": f"@127.0.0.1:{server.url.port}/",
        "zookeeper:2181": zookeeper_server.hosts,
        "/opt/airflow/blobs": str(tmp_path / "blobs"),
    }.items():
        assert there in text
        text = text.replace(there, here)
    (tmp_path / "pipedag.yaml").write_text(text)
    given = values(secrets)
    env = os.environ | given | {"AIRFLOW__CORE__FERNET_KEY": given["AIRFLOW_FERNET_KEY"]}
    env.pop("PIPEDAG_CONFIG", None)
    checked = run(PROGRAMS / "pipedag-airflow", "check", cwd=tmp_path, env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.findall(r"^(.*?) +ok ", checked.stdout, re.MULTILINE) == [
        "table store",
        "blob store",
        "lock manager",
        "orchestration",
    ]
