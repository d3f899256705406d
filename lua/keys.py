"""Names of Redis keys and channels. Pure.

A subject is written ``kind=value``. The value is percent-encoded outside ``A-Z a-z 0-9 @ . + / , ~ _ - :``, so that no two
subjects share a key, no value can close the braces that hold the Cluster hash tag, and a subject can stand unescaped in JSON.
A value whose encoded form is over 256 bytes is replaced by ``#`` and its SHA-256 (a literal ``#`` is always encoded).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from binascii import crc_hqx
from functools import lru_cache
from urllib.parse import quote

CHANGES_CHANNEL = "ratchet:changes"
"""Every script that changes what is held against a subject publishes ``{"subject":"kind=value","state":{...}}`` here; one that
fills its buckets leaves out the state, one that changes its overrides tells their ``"revision":N`` instead. One that registers
policies publishes ``{"generation":N}``, one that changes a throttle factor ``{"factor_of":"action"}``."""

POLICIES = "{ratchet}:policies"
"""Hash: the generation of the policies registered last, and the last document of an admin. What is not about a subject shares
one hash tag, so that on a Cluster one script reaches it all."""

POLICIES_FILES = "{ratchet}:policies:files"
"""Sorted set: versions of files by the generation they were registered under."""

OVERRIDES = "{ratchet}:overrides"
"""Hash: overrides made at run time, by subject, policy and limit."""

OVERRIDES_REVISIONS = "{ratchet}:overrides:revisions"
"""Sorted set: what was set or removed, by the revision at which it was."""

OVERRIDES_ENDS = "{ratchet}:overrides:ends"
"""Sorted set: what was set or removed, by the time when it ends."""

OVERRIDES_REVISION = "{ratchet}:overrides:revision"
"""Counter: goes up with each change of an override."""

FACTORS = "{ratchet}:factors"
"""Hash: throttle factor by action, as ``per_mille until_ms probes owner``; probes are the checks per mille that pass."""

ENFORCERS = "{ratchet}:enforcers"
"""Sorted set: enforcer processes by the time when they were last seen alive, in milliseconds."""

INTACT = "{ratchet}:intact"
"""String: 1 when Redis holds what topic ``subjects`` tells. Missing, Redis was emptied; anything else, it is being rebuilt."""

SLOTS = 16384
"""Of a Redis Cluster; its specification fixes the number."""

QUOTAS_CHANNEL = "ratchet:quotas"
"""``share_quota.lua`` publishes ``member key`` here when shares of a limit are to be divided anew."""

LARGEST_VALUE_BYTES = 256

_SAFE = "@.+/,~_-:"
_IS_SUBJECT = re.compile(rf"[a-z][a-z0-9_]*=[A-Za-z0-9%#{re.escape(_SAFE)}]{{0,300}}").fullmatch
_IS_SAFE = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]{{1,{LARGEST_VALUE_BYTES}}}").fullmatch


def is_subject(text: str) -> bool:
    """Whether a text is what ``name_subject`` can give, so that it may stand in keys and unescaped in JSON."""
    return _IS_SUBJECT(text) is not None


def name_subject(kind: str, value: str) -> str:
    """Name one subject: ``user=alice``. Injective for values whose encoded form is at most 256 bytes.

    Args:
        kind: A declared subject kind, ``[a-z][a-z0-9_]*``.
        value: Any text, also empty; lone surrogates are encoded as they are.
    """
    if _IS_SAFE(value):
        return f"{kind}={value}"
    encoded = quote(value, safe=_SAFE, errors="surrogatepass")
    if len(encoded) > LARGEST_VALUE_BYTES:
        return f"{kind}=#{hashlib.sha256(value.encode(errors='surrogatepass')).hexdigest()}"
    return f"{kind}={encoded}"


@lru_cache(maxsize=65_536)
def canonicalize_ip(value: str) -> str:
    """Write an address in one way; IPv6 by its /64, which is what one customer holds. Other text stays as it is."""
    try:
        address = ipaddress.ip_address(value.strip("[]").partition("%")[0])
    except ValueError:
        return value
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def name_attribute(kind: str, value: str) -> str:
    """Name what an attribute says: ``kind=value``, addresses in their one way of writing."""
    return name_subject(kind, canonicalize_ip(value) if kind == "ip" else value)


def join_subjects(subjects: list[str]) -> str:
    """Name what a limit ``per`` several attributes is about: ``user=alice&ip=203.0.113.7``; ``global`` for none."""
    return "&".join(subjects) if subjects else "global"


def name_bucket(subject: str, policy: str, limit: str, tier: str = "", *, is_shadow: bool = False) -> str:
    """Key of one bucket: ``rate_limit:{user=alice}:login:per_user``, ``rate_limit:{user=alice}&ip=::/64:login:pair``.

    On a Redis Cluster it lies in the slot of the first name, so that a limit per user and action shares that of its user.
    Each tier has a bucket of its own, ``...:per_user:tier=gold``, and so has a limit in shadow mode, ``...:per_user:shadow``:
    what is only recorded never spends what is enforced, whichever way modes are changed.

    Args:
        subject: As ``join_subjects`` names it.
        policy: Without colons, as all that follow.
        limit: Its name.
        tier: Whose terms are in force; empty for the limit's own.
        is_shadow: The limit is in shadow mode for this subject.
    """
    first, mark, others = subject.partition("&")
    key = f"rate_limit:{{{first}}}{mark}{others}:{policy}:{limit}"
    if tier:
        key += f":tier={tier}"
    return f"{key}:shadow" if is_shadow else key


def name_shares(bucket: str) -> str:
    """Key of who may spend which share of a bucket's limit, from the bucket's own key. Same slot."""
    return f"quota:{bucket.removeprefix('rate_limit:')}"


def name_shared_bucket(shares: str) -> str:
    """Key of the bucket that shares are of."""
    return f"rate_limit:{shares.removeprefix('quota:')}"


def name_abuse(subject: str) -> str:
    """Key of what is held against one subject: ``abuse:{user=alice}``."""
    return f"abuse:{{{subject}}}"


def name_verdict(subject: str, verdict_id: str) -> str:
    """Key of the stored result of one verdict: ``verdict:{user=alice}:<verdict_id>``. Same slot as the subject's state."""
    return f"verdict:{{{subject}}}:{verdict_id}"


def name_request(request_id: str) -> str:
    """Key of what came of one change by an admin: ``{ratchet}:request:<request_id>``."""
    return f"{{ratchet}}:request:{request_id}"


def find_slot(key: str) -> int:
    """The slot of a Redis Cluster that a key of ours lies in: the CRC-16 of what stands in its braces."""
    return crc_hqx(key[key.index("{") + 1 : key.index("}")].encode(), 0) % SLOTS
