"""What is in force on enforcers that share a Redis: their files, published documents, overrides and factors."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from config.document import parse_document
from enforcer.limits.bucket import UNREGISTERED
from enforcer.limits.policy_document import PoliciesDocument
from enforcer.reload.generations import ABANDONED_MS, publish_document, register_file
from enforcer.reload.overrides import RunTimeOverride, Target, remove_override, set_override
from lua.keys import FACTORS, POLICIES
from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer
from tests.unit.enforcer.builders import make_policies

T = TypeVar("T")
ALLOW, DENY = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY
_DOCUMENT = """
version: 1
subjects: [user, ip]
policies:
  - name: login
    match: {{ action: login }}
    limits:
      - {{ name: per_user, per: [user], capacity: {capacity}, refill: {refill} }}
  - name: default
    match: {{ action: "*" }}
    limits: []
# {mark}
"""


class Text(NamedTuple):
    """A document of its own version, and its version."""

    text: str
    version: str


def write_document(capacity: int = 5, refill: str = "5/1h") -> Text:
    text = _DOCUMENT.format(capacity=capacity, refill=refill, mark=uuid.uuid4())
    return Text(text, parse_document(text, PoliciesDocument, name="policies.yaml").version)


class Host(NamedTuple):
    """An enforcer, and the file that it goes by."""

    enforcer: EnforcerProcess
    file: Path

    def read_state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.enforcer.get("/readyz")[1])
        return state

    def wait_for(self, document: Text) -> int:
        """Wait until a document is in force, as answers tell, and give its generation."""
        poll(lambda: self.enforcer.check("watcher").policy_version == document.version, f"version {document.version}")
        return int(self.read_state()["generation"])

    def write(self, document: Text) -> int:
        self.file.write_text(document.text)
        return self.wait_for(document)


def start(stack: ExitStack, redis_url: str, folder: Path, document: Text, *options: str) -> Host:
    folder.mkdir(exist_ok=True)
    enforcer = stack.enter_context(
        run_enforcer(redis_url, NOWHERE, folder, "--redis-timeout-ms", "1000", *options, policies=document.text)
    )
    if redis_url != f"redis://{NOWHERE}":
        enforcer.wait_for_redis()
    return Host(enforcer, folder / "policies.yaml")


@pytest.fixture(scope="module")
def hosts(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts with one file; the first one's is mounted as Kubernetes mounts a config map."""
    with SyncRedis.from_url(redis_url) as client:
        client.flushdb()
    folder, document = tmp_path_factory.mktemp("hosts"), write_document()
    mounted = folder / "one"
    (mounted / "first").mkdir(parents=True)
    (mounted / "data").symlink_to("first")
    (mounted / "policies.yaml").symlink_to("data/policies.yaml")
    with ExitStack() as stack:
        yield (
            start(stack, redis_url, mounted, document, "--transport", "native"),
            start(stack, redis_url, folder / "two", document, "--transport", "grpcio"),
        )


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4()}"


@pytest.fixture
def call(redis_url: str) -> Callable[[Callable[[Redis], Coroutine[Any, Any, T]]], T]:
    def run(what: Callable[[Redis], Coroutine[Any, Any, T]]) -> T:
        async def connected() -> T:
            async with Redis.from_url(redis_url) as client:
                return await what(client)

        return asyncio.run(connected())

    return run


Call = Callable[[Callable[[Redis], Coroutine[Any, Any, Any]]], Any]


def publish(call: Call, document: Text) -> int:
    found = call(lambda redis: publish_document(redis, document.text, str(uuid.uuid4()), "ann", "to test"))
    return int(found.generation.number)


def ask(host: Host, user: str, times: int = 1) -> list[tuple[int, int]]:
    """Outcome and tokens left of each check."""
    answers = [host.enforcer.check(user) for _ in range(times)]
    return [(answer.outcome, answer.limits[0].remaining) for answer in answers]


def test_enforcers_with_one_file_have_one_generation(hosts: tuple[Host, Host]) -> None:
    document = write_document()
    first, second = [host.write(document) for host in hosts]
    poll(lambda: hosts[0].read_state()["generation"] == hosts[1].read_state()["generation"] == second, "one generation")
    assert first == second


def test_file_that_is_written_is_in_force_on_its_host_alone(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    old, new = write_document(), write_document()
    before = [host.write(old) for host in hosts]
    assert two.write(new) > max(before)
    assert one.enforcer.check("watcher").policy_version == old.version
    assert one.write(new) == two.read_state()["generation"]


def test_swapped_links_of_a_mounted_config_map_are_seen(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    document = write_document()
    folder = one.file.parent / str(uuid.uuid4())
    folder.mkdir()
    (folder / "policies.yaml").write_text(document.text)
    (one.file.parent / "next").symlink_to(folder.name)
    (one.file.parent / "next").rename(one.file.parent / "data")
    one.wait_for(document)


def test_published_document_is_equal_everywhere_also_on_who_starts_later(
    hosts: tuple[Host, Host], call: Call, redis_url: str, tmp_path: Path
) -> None:
    document = write_document()
    number = publish(call, document)
    assert [host.wait_for(document) for host in hosts] == [number, number]
    registered_before = Text(hosts[1].file.read_text(), "")
    with ExitStack() as stack:
        late = start(stack, redis_url, tmp_path / "late", registered_before)
        assert late.enforcer.wait_for_line("enforcer_ready")["policies"] == document.version
        assert late.wait_for(document) == number
    newer = write_document()
    assert hosts[0].write(newer) > number
    assert hosts[1].wait_for(document) == number


def test_bad_document_is_told_and_the_old_one_stays(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    good = write_document()
    one.write(good)
    rejected = one.enforcer.read_metric("ratchet_policies_rejected_total")
    one.file.write_text(good.text.replace("capacity: 5", "capacity: five"))
    problems = poll(lambda: one.read_state()["rejected"], "the rejection")
    assert problems == [f"{one.file}:8: policies[0].limits[0].capacity: input should be a valid integer, not 'five'"]
    assert one.enforcer.read_metric("ratchet_policies_rejected_total") == rejected + 1
    assert one.enforcer.check("watcher").policy_version == good.version
    line = one.enforcer.wait_for_line("policies_rejected")
    assert (line["level"], line["problems"], line["stays_in_force"]) == ("error", problems, good.version)
    one.write(write_document())
    assert one.read_state()["rejected"] is None


def test_live_buckets_keep_their_fill_ratio(hosts: tuple[Host, Host], user: str) -> None:
    for host in hosts:
        host.write(write_document(10))
    assert ask(hosts[0], user, 6)[-1] == (ALLOW, 4)
    larger = write_document(1000)
    for host in hosts:
        host.write(larger)
    (outcome, left), *_ = ask(hosts[1], user)
    assert outcome == ALLOW
    assert 398 <= left <= 399, "400 less one; what a millionth rounds off comes back within a moment"
    smaller = write_document(10)
    for host in hosts:
        host.write(smaller)
    assert ask(hosts[0], user) == [(ALLOW, 2)]


def test_raised_limit_lets_those_pass_who_were_refused(hosts: tuple[Host, Host], user: str) -> None:
    for host in hosts:
        host.write(write_document(5, "5/1h"))
    for host in hosts:
        assert ask(host, user, 6)[-1] == (DENY, 0)
    raised = write_document(5000, "5000/1s")
    for host in hosts:
        host.write(raised)
        poll(lambda: ask(host, user)[0][0] == ALLOW, "an admission")  # noqa: B023 called at once
    time.sleep(0.05)  # what fills up, not what is waited for: 250 tokens
    assert {outcome for host in hosts for outcome, _ in ask(host, user, 20)} == {ALLOW}


def test_no_answer_mixes_two_documents_under_load(hosts: tuple[Host, Host]) -> None:
    documents = [write_document(capacity, "1000/1s") for capacity in (1000, 2000, 3000)]
    capacities = dict(zip([document.version for document in documents], (1000, 2000, 3000), strict=True))
    for host in hosts:
        host.write(documents[0])
    is_over, seen, mixed = threading.Event(), set(), []

    def load(host: Host, number: int) -> None:
        while not is_over.is_set():
            answer = host.enforcer.check(f"load-{number}")
            seen.add(answer.policy_version)
            if [limit.capacity for limit in answer.limits] != [capacities[answer.policy_version]]:
                mixed.append(answer)

    threads = [threading.Thread(target=load, args=(host, number)) for host in hosts for number in range(3)]
    for thread in threads:
        thread.start()
    for document in (*documents[1:], documents[0]):
        for host in hosts:
            host.write(document)
    is_over.set()
    for thread in threads:
        thread.join()
    assert mixed == []
    assert seen == set(capacities)


def test_enforcers_with_different_files_give_no_more_than_the_more_generous_one_allows(
    hosts: tuple[Host, Host], user: str
) -> None:
    one, two = hosts
    one.write(write_document(40, "1/1d"))
    two.write(write_document(10, "1/1d"))
    outcomes = [ask(host, user)[0][0] for _ in range(30) for host in hosts]
    assert 10 <= outcomes.count(ALLOW) <= 40
    assert ask(one, user)[0][0] == ask(two, user)[0][0] == DENY


def test_override_is_in_force_everywhere_until_it_is_removed_or_ends(hosts: tuple[Host, Host], call: Call, user: str) -> None:
    for host in hosts:
        host.write(write_document())
        assert ask(host, user, 6)[-1][0] == DENY
    target = Target(f"user={user}", "login", "per_user")

    def put(for_ms: int) -> None:
        async def change(redis: Redis) -> None:
            seconds, micros = await redis.time()
            until_ms = seconds * 1000 + micros // 1000 + for_ms
            override = RunTimeOverride(*target, 10_000, "10000/1s", until_ms, "a good customer", "ann")
            await set_override(redis, override, str(uuid.uuid4()), make_policies(hosts[0].file.read_text()))

        call(change)

    def wait_until_it_is_in_force(*, is_so: bool) -> None:
        for host in hosts:
            poll(lambda: (host.enforcer.check(user).limits[0].capacity == 10_000) == is_so, "the override")  # noqa: B023

    put(60_000)
    wait_until_it_is_in_force(is_so=True)
    for host in hosts:
        poll(lambda: ask(host, user)[0][0] == ALLOW, "an admission")  # noqa: B023 called at once
        assert ask(host, "somebody else")[0][1] < 5
    call(lambda redis: remove_override(redis, target, str(uuid.uuid4())))
    wait_until_it_is_in_force(is_so=False)
    put(1500)
    wait_until_it_is_in_force(is_so=True)
    wait_until_it_is_in_force(is_so=False)
    poll(lambda: hosts[0].enforcer.read_metric("ratchet_overrides") == 0, "the end of the override")


def test_factor_of_an_action_throttles_it_until_it_ends(
    hosts: tuple[Host, Host], call: Call, redis_url: str, user: str
) -> None:
    document = write_document(100, "100/1h")
    for host in hosts:
        host.write(document)
    with SyncRedis.from_url(redis_url) as client:
        seconds, _ = client.time()
        client.hset(FACTORS, "login", f"50 {(seconds + 3) * 1000} 1000 one")
    for host in hosts:
        poll(lambda: host.enforcer.check("watcher").factor_per_mille == 50, "the factor")  # noqa: B023 called at once
    answers = [hosts[0].enforcer.check(user) for _ in range(6)]
    assert answers[-1].outcome == DENY
    assert answers[-1].reason == enforcer_pb2.REASON_THROTTLED
    assert not any(answer.cached for answer in answers)
    for host in hosts:
        poll(lambda: host.enforcer.check("watcher").factor_per_mille == 1000, "the end of the factor")  # noqa: B023


def test_open_action_refuses_all_but_probes_until_it_ends(hosts: tuple[Host, Host], redis_url: str, user: str) -> None:
    for host in hosts:
        host.write(write_document(100, "100/1h"))
    with SyncRedis.from_url(redis_url) as client:
        seconds, _ = client.time()
        client.hset(FACTORS, "login", f"20 {(seconds + 3) * 1000} 0 one")
    for host in hosts:
        poll(lambda: host.enforcer.check(user).reason == enforcer_pb2.REASON_OPEN, "the action open")  # noqa: B023 called at once
    answer = hosts[0].enforcer.check(user)
    assert (answer.outcome, answer.cached, answer.retry_after_ms) == (DENY, False, 1000)
    for host in hosts:
        poll(lambda: host.enforcer.check(user).outcome == ALLOW, "the action closed")  # noqa: B023


def test_enforcers_know_how_many_they_are(hosts: tuple[Host, Host], redis_url: str, tmp_path: Path) -> None:
    def count() -> float:
        return hosts[0].enforcer.read_metric("ratchet_enforcers")

    poll(lambda: count() == 2, "both")
    with ExitStack() as stack:
        third = start(stack, redis_url, tmp_path / "third", Text(hosts[0].file.read_text(), ""))
        poll(lambda: count() == 3, "the third")
        third.enforcer.stop()
        poll(lambda: count() == 2, "that the third has left")


def test_redis_that_is_emptied_is_told_again_what_is_in_force(hosts: tuple[Host, Host], call: Call, redis_url: str) -> None:
    document = write_document()
    before = publish(call, document)
    for host in hosts:
        host.wait_for(document)
    with SyncRedis.from_url(redis_url) as client:
        client.flushdb()
        poll(lambda: client.hget(POLICIES, "generation") == str(before + 1).encode(), "a newer generation")
        assert client.hget(POLICIES, "document") == document.text.encode()
    for host in hosts:
        poll(lambda: host.read_state()["generation"] == before + 1, "the newer generation")  # noqa: B023 called at once


def test_registration_that_nobody_goes_by_any_more_is_taken_over(hosts: tuple[Host, Host], call: Call, redis_url: str) -> None:
    document = write_document()
    for host in hosts:
        host.write(document)
    gone = call(lambda redis: register_file(redis, "f" * 12, "change", UNREGISTERED)).generation.number
    with SyncRedis.from_url(redis_url) as client:
        client.hincrby(POLICIES, "held_ms", -ABANDONED_MS)
    for host in hosts:
        poll(lambda: host.read_state()["generation"] == gone + 1, "a newer generation")  # noqa: B023 called at once
        assert host.enforcer.check("watcher").policy_version == document.version


def test_file_counts_without_redis_too(tmp_path: Path) -> None:
    with ExitStack() as stack:
        host = start(stack, f"redis://{NOWHERE}", tmp_path / "alone", write_document())
        assert host.write(write_document()) == 0


def test_folder_of_envoys_files_is_followed_file_by_file(redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "limits"
    folder.mkdir()

    def write(name: str, hits: int) -> None:
        limit = f"{{ unit: hour, requests_per_unit: {hits} }}"
        text = f"domain: {name}\ndescriptors:\n  - {{ key: user_id, rate_limit: {limit} }}\n"
        (folder / f"{name}.yaml").write_text(text)

    def read_limit(domain: str) -> int:
        entry = descriptor_pb2.RateLimitDescriptor.Entry(key="user_id", value="alice")
        request = rls_pb2.RateLimitRequest(domain=domain, descriptors=[descriptor_pb2.RateLimitDescriptor(entries=[entry])])
        return enforcer.envoy_stub.ShouldRateLimit(request, timeout=30).statuses[0].current_limit.requests_per_unit

    write("web", 3)
    enforcer = EnforcerProcess(redis_url, NOWHERE, folder, "--redis-timeout-ms", "1000", "--drain-ms", "0")
    try:
        assert read_limit("web") == 3
        write("web", 7)
        poll(lambda: read_limit("web") == 7, "the limit that was written")
        write("api", 5)
        poll(lambda: read_limit("api") == 5, "the file that was added")
        write("api", 6)
        poll(lambda: read_limit("api") == 6, "the change of the file that was added")
        assert read_limit("web") == 7
    finally:
        enforcer.close()
