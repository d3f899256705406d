"""The tree of unit tests mirrors the source: every module that holds logic has its test file, and no test file is an orphan."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "detector", "devstack", "enforcer", "examples", "lua", "topics")

ELSEWHERE = {
    # One adapter of a library each: without the real part on the other side there is nothing to judge.
    "detector/app.py": "tests/integration/detector/test_detector.py",
    "detector/factor_store.py": "tests/integration/detector/test_throttle.py",
    "detector/listener.py": "tests/integration/detector/test_detector.py",
    "detector/publisher.py": "tests/integration/detector/test_detector.py",
    "detector/process.py": "tests/integration/detector/test_detector.py",
    "detector/rebuild.py": "tests/integration/detector/test_rebuild.py",
    "devstack/daemon.py": "tests/integration/devstack/test_cli.py",
    "devstack/guardian.py": "tests/integration/devstack/test_process.py",
    "devstack/stack.py": "tests/integration/devstack/test_stack.py",
    "enforcer/admin/admin.py": "tests/integration/enforcer/test_admin.py",
    "enforcer/admin/audit.py": "tests/integration/enforcer/test_admin.py",
    "enforcer/client/aio.py": "tests/integration/enforcer/client/test_client.py",
    "enforcer/client/errors.py": "tests/unit/enforcer/client/test_exchange.py",
    "enforcer/client/sync.py": "tests/integration/enforcer/client/test_client.py",
    "enforcer/stores/changes.py": "tests/integration/enforcer/test_changes.py",
    "enforcer/stores/connection.py": "tests/integration/enforcer/test_connection.py",
    "enforcer/admin/explaining.py": "tests/integration/enforcer/test_admin.py",
    "enforcer/front.py": "tests/integration/enforcer/test_service.py",
    "enforcer/reload/generations.py": "tests/integration/lua/test_register_policies.py",
    "enforcer/reload/in_force.py": "tests/integration/enforcer/test_in_force.py",
    "enforcer/reload/overrides.py": "tests/integration/lua/test_change_override.py",
    "enforcer/calls/guard.py": "tests/integration/enforcer/test_access.py",
    "enforcer/launch.py": "tests/integration/enforcer/test_emission.py",
    "enforcer/process.py": "tests/integration/enforcer/test_emission.py",
    "enforcer/events/producer.py": "tests/integration/enforcer/test_emission.py",
    "enforcer/stores/quota_store.py": "tests/integration/lua/test_share_quota.py",
    "enforcer/stores/redis_script.py": "tests/integration/lua/test_poll.py",
    "enforcer/server.py": "tests/integration/enforcer/test_service.py",
    "enforcer/telemetry.py": "tests/integration/enforcer/test_service.py",
    "enforcer/calls/tls.py": "tests/integration/enforcer/test_tls.py",
    "detector/reloading.py": "tests/integration/detector/test_reloading.py",
    "config/watching.py": "tests/integration/config/test_watching.py",
    "enforcer/workers.py": "tests/integration/enforcer/test_workers.py",
    "lua/calls.py": "tests/integration/lua/test_calls.py",
    "topics/connection.py": "tests/integration/topics/test_log.py",
    "topics/log.py": "tests/integration/topics/test_log.py",
    # Models without a line of their own: their tests are those of what reads and writes them.
    "topics/events.py": "tests/unit/topics/test_codec.py",
    "topics/errors.py": "tests/integration/topics/test_log.py",
    # Plays the whole system.
    "examples/scenario.py": "tests/e2e/test_demo.py",
}
"""Modules whose tests are not in their mirror, and where they are."""

WITHOUT = {
    "enforcer/exit_codes.py": "names three numbers",
    "detector/logs.py": "sets up the logging library",
    "devstack/__main__.py": "calls devstack.cli",
    "devstack/bootstrap.py": "makes the environment that the tests run in",
}
"""Modules that need no test, and why."""


def list_modules() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def name_mirror(module: str) -> str:
    path = Path(module)
    return f"tests/unit/{path.parent.as_posix()}/test_{path.stem.strip('_')}.py"


def test_every_module_has_its_test_file() -> None:
    excepted = {*ELSEWHERE, *WITHOUT}
    missing = {module for module in list_modules() - excepted if not (ROOT / name_mirror(module)).exists()}
    assert missing == set()


def test_exceptions_are_true() -> None:
    excepted = {*ELSEWHERE, *WITHOUT}
    assert excepted - list_modules() == set(), "no such module"
    assert {module for module in excepted if (ROOT / name_mirror(module)).exists()} == set(), "no exception is needed"
    assert {test for test in ELSEWHERE.values() if not (ROOT / test).exists()} == set(), "no such test"


def test_every_scripts_test_file_is_there() -> None:
    tests = {path.stem for folder in ("unit", "integration") for path in (ROOT / "tests" / folder).rglob("test_*.py")}
    for script in (ROOT / "lua").glob("*.lua"):
        assert {f"test_{script.stem}", f"test_{script.stem}_script"} & tests, script.name
