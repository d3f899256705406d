"""Every way to reach a Redis: the decisions' own connection and redis-py's both take it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from redis.asyncio import Redis
from redis.exceptions import RedisError

from enforcer.limits.bucket import Status
from enforcer.stores.connection import connect
from enforcer.stores.store import RedisStore
from lua.address import open_client, parse_address
from tests.integration.enforcer.test_store import take, until
from tests.unit.enforcer.builders import make_plan

HOST = "127.0.0.1"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relay(redis_url: str, *, tls: ssl.SSLContext | None = None, socket: Path | None = None) -> AsyncIterator[int]:
    """What the Redis of the tests may not speak itself: TLS, as a stunnel before it would, or a Unix socket."""
    redis = urlsplit(redis_url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(redis.hostname, redis.port)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    if socket is not None:
        server = await asyncio.start_unix_server(serve, socket)
    else:
        server = await asyncio.start_server(serve, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1] if socket is None else 0
    finally:
        server.close()


async def decide_over(url: str) -> int:
    """Levels left after one check over the URL, which redis-py reads too."""
    client = open_client(url)
    try:
        assert await client.ping()
    finally:
        await client.aclose()
    store = RedisStore(url, timeout_s=5.0)
    store.start()
    try:
        await until(lambda: store.is_available)
        (reading,) = await take(store, make_plan())
        assert reading is not None
        assert reading.status == Status.ALLOW
        return reading.levels[0] // 60_000_000
    finally:
        await store.close()


async def fail_over(url: str) -> str:
    """What the decisions' connection says; redis-py does not get through either."""
    client = open_client(url)
    with pytest.raises((RedisError, OSError)):
        await client.ping()
    await client.aclose()
    with pytest.raises(OSError) as failed:  # noqa: PT011 the caller looks at the message
        await connect(parse_address(url), lambda _: None)
    return str(failed.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


def make_server_tls(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_unix_socket(redis_client: Redis, redis_url: str, tmp_path: Path) -> None:
    await redis_client.ping()
    socket = tmp_path / "redis.sock"
    async with relay(redis_url, socket=socket):
        assert await decide_over(f"unix://{socket}") == 4


async def test_tls_with_an_authority_of_ones_own(
    redis_client: Redis, redis_url: str, authority: trustme.CA, authority_file: Path
) -> None:
    await redis_client.ping()
    async with relay(redis_url, tls=make_server_tls(authority)) as port:
        assert await decide_over(f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority_file}") == 4
        assert await decide_over(f"rediss://{HOST}:{port}/0?ssl_cert_reqs=none") == 3
        assert "CERTIFICATE_VERIFY_FAILED" in await fail_over(f"rediss://{HOST}:{port}/0")


async def test_tls_to_a_server_with_another_name_is_refused(
    redis_url: str, authority: trustme.CA, authority_file: Path
) -> None:
    async with relay(redis_url, tls=make_server_tls(authority, "redis.example")) as port:
        url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority_file}"
        assert "IP address mismatch" in await fail_over(url)


async def test_server_that_asks_for_a_client_certificate_gets_it(
    redis_client: Redis, redis_url: str, authority: trustme.CA, authority_file: Path, tmp_path: Path
) -> None:
    await redis_client.ping()
    tls = make_server_tls(authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    own = authority.issue_cert("enforcer.example")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    own.cert_chain_pems[0].write_to_path(certificate)
    own.private_key_pem.write_to_path(key)
    async with relay(redis_url, tls=tls) as port:
        url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority_file}"
        assert await decide_over(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}") == 4
        await fail_over(url)


async def test_name_and_password_are_those_of_the_url(redis_client: Redis, redis_url: str) -> None:
    await redis_client.acl_setuser(
        "visitor", enabled=True, passwords=["+p@ss/w"], keys=["*"], channels=["*"], categories=["+@all"]
    )
    try:
        place = redis_url.rpartition("/")[0].rpartition("@")[2].removeprefix("redis://")
        database = redis_url.rpartition("/")[2]
        assert await decide_over(f"redis://visitor:p%40ss%2Fw@{place}/{database}") == 4
        assert (await fail_over(f"redis://visitor:wrong@{place}/{database}")).startswith("AUTH: WRONGPASS")
        assert "AUTH" in await fail_over(f"redis://nobody:p@{place}/{database}")
    finally:
        await redis_client.acl_deluser("visitor")


async def test_database_is_that_of_the_url(redis_client: Redis, redis_url: str) -> None:
    other = redis_url.rpartition("/")[0] + "/9"
    async with Redis.from_url(other) as client:
        await client.flushdb()
        assert await decide_over(other) == 4
        assert await client.dbsize() == 1
        await client.flushdb()
    assert await redis_client.dbsize() == 0
