"""URLs of a Redis Cluster: ``redis+cluster://user:password@host:6379,host:6379?ssl_ca_certs=...`` (TLS: ``rediss+cluster://``).

Written as in the library ``limits``. The nodes named are asked for all others, which take the same name, password and
parameters as they. A cluster has one database. Pure.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("redis+cluster", "rediss+cluster")
DEFAULT_PORT = 6379


def is_cluster(url: str) -> bool:
    """Whether a Redis URL names a cluster."""
    return url.partition("://")[0] in SCHEMES


def list_cluster_nodes(url: str) -> tuple[str, ...]:
    """The URL of each node that a cluster's URL names, as of a server of its own.

    Raises:
        ValueError: It is none. The message says what is allowed and repeats no password.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"a Redis Cluster's URL begins with {SCHEMES[0]}:// or {SCHEMES[1]}://")
    if parts.path.strip("/") not in {"", "0"}:
        raise ValueError("a Redis Cluster's URL ends in no database: a cluster has one, and a / in a password is written %2F")
    login, at, hosts = parts.netloc.rpartition("@")
    scheme = parts.scheme.removesuffix("+cluster")
    found = []
    for text in hosts.split(","):
        try:
            one = urlsplit(f"//{text}")
            host, port = one.hostname, one.port or DEFAULT_PORT
        except ValueError:
            host = None
        if not host:
            raise ValueError(f"{text!r} in a Redis Cluster's URL is no node; write host:port,host:port")
        found.append(urlunsplit((scheme, f"{login}{at}{_join(host, port)}", "", parts.query, "")))
    return tuple(found)


def name_cluster_node(url: str, host: str, port: int) -> str:
    """The URL of another node of the cluster.

    Args:
        url: Of a node.
        host: Name or address; empty where the other node is on the same host, as a node says that does not know its own.
        port: Its port.
    """
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{_join(host or parts.hostname or '', port)}"))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
