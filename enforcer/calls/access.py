"""Who may call, and what: one document, one decision for both transports. Pure.

A caller is known by a bearer token or by the name in its client certificate. It has roles, and may be confined to actions.
Without a document everybody may do everything.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal, Self

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from config.document import Loaded
from enforcer.decisions.plan import Plan
from enforcer.limits.check import CALLER, Check

Role = Literal["check", "report", "refund", "admin"]
ROLES: tuple[Role, ...] = ("check", "report", "refund", "admin")

NEEDED = "a bearer token (metadata `authorization: Bearer TOKEN`) or client certificate that this enforcer knows is needed"

_CHECK_SERVICES = (
    "/ratchet.v1.Enforcer/Check",  # and CheckBatch
    "/envoy.service.ratelimit.v3.RateLimitService/",
    "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/",
)
_REPORT = "/ratchet.v1.Enforcer/ReportOutcomes"
_OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
"""Balancers and tools ask these without being known; they change nothing."""

_STARS_PER_GLOB = 3
_GLOB = re.compile(r"[!-~]{1,128}")


class Unauthenticated(Exception):  # noqa: N818 gRPC's word
    """Nobody knows the caller. Nothing was done; calling again as the same gives the same."""


class PermissionDenied(Exception):  # noqa: N818 gRPC's word
    """The caller may not do this. Nothing was done; the message says what it may."""


def find_role(method: str) -> Role | None:
    """Which role a gRPC method needs; None: everybody may. A method that is not listed needs ``admin``."""
    if method.startswith(_CHECK_SERVICES):
        return "check"
    if method == _REPORT:
        return "report"
    return None if method.startswith(_OPEN) else "admin"


def _check_glob(value: str) -> str:
    if not _GLOB.fullmatch(value):
        raise ValueError(f"{value!r} is not an action or glob: 1 to 128 printable ASCII characters without spaces")
    if value.count("*") > _STARS_PER_GLOB:
        raise ValueError(f"{value!r} has more than {_STARS_PER_GLOB} stars")
    return value


class CallerDocument(BaseModel):
    """One caller."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    """Who it is: in messages, and as the actor of what it changes."""
    tokens: Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], Field(max_length=8)] = ()
    """SHA-256 of each of its tokens, in lower-case hex: `printf %s TOKEN | sha256sum`. Two while one is replaced."""
    certificates: Annotated[tuple[Annotated[str, Field(pattern=r"^[!-~]{1,255}$")], ...], Field(max_length=8)] = ()
    """Names in its client certificate: a subject alternative name, or the common name where it has none."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    """What it may do."""
    actions: Annotated[tuple[Annotated[str, AfterValidator(_check_glob)], ...], Field(min_length=1, max_length=64)] = ("*",)
    """Actions, or globs of actions, that it may check and report."""

    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if not self.tokens and not self.certificates:
            raise ValueError("has neither tokens nor certificates; by one of them a caller is known")
        return self


class AccessDocument(BaseModel):
    """The whole of the access document."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: Literal[1]
    callers: Annotated[tuple[CallerDocument, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _are_distinct(self) -> Self:
        for what in ("name", "tokens", "certificates"):
            seen: set[str] = set()
            for position, caller in enumerate(self.callers):
                value = getattr(caller, what)
                for mark in (value,) if isinstance(value, str) else value:
                    if mark in seen:
                        raise ValueError(f"callers[{position}]: {what}: {mark} stands here a second time")
                    seen.add(mark)
        return self


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what it may."""

    name: str
    roles: tuple[Role, ...]
    actions: tuple[str, ...] = ("*",)
    """Globs."""
    _is_own: Callable[[str], object] | None = None
    """Whether an action is among them; None: all are."""

    @classmethod
    def compile(cls, document: CallerDocument) -> Self:
        """Compile one caller of a valid document."""
        is_own = None
        if "*" not in document.actions:
            globs = (".*".join(map(re.escape, glob.split("*"))) for glob in document.actions)
            is_own = lru_cache(maxsize=1024)(re.compile("|".join(globs)).fullmatch)
        return cls(document.name, document.roles, document.actions, is_own)

    @property
    def is_confined(self) -> bool:
        """Whether some plans are not for it, so that each has to be looked at."""
        return self._is_own is not None or "refund" not in self.roles

    def require(self, role: Role) -> None:
        """Insist on a role.

        Raises:
            PermissionDenied: The caller lacks it.
        """
        if role not in self.roles:
            raise PermissionDenied(f"caller {self.name} lacks the role {role}; it has: {', '.join(self.roles)}")

    def permit_action(self, action: str) -> None:
        """Insist on an action of the caller's own.

        Raises:
            PermissionDenied: It is another's.
        """
        if self._is_own is not None and not self._is_own(action):
            raise PermissionDenied(f"caller {self.name} may not use action {action}; it may: {', '.join(self.actions)}")

    def permit(self, plan: Plan) -> None:
        """Insist that the caller may ask for this: the action is its own, and what gives tokens back needs ``refund``.

        Raises:
            PermissionDenied: It may not. Take nothing.
        """
        self.permit_action(plan.template.action)
        if plan.check.cost < 0 or (plan.costs and min(plan.costs) < 0):
            self.require("refund")

    def sign(self, check: Check) -> Check:
        """The check with this caller's name as its attribute ``caller``, whatever it said itself."""
        return msgspec.structs.replace(check, attributes={**check.attributes, CALLER: self.name})


ANYBODY = Caller("anonymous@loopback", ROLES)
"""Whoever calls while there is no document. Off loopback, it is offered nothing that needs a name."""


@dataclass(frozen=True, slots=True)
class Callers:
    """One document in force."""

    version: str
    by_token: Mapping[bytes, Caller]
    """By the SHA-256 of a token."""
    by_certificate: Mapping[str, Caller]

    @classmethod
    def compile(cls, loaded: Loaded[AccessDocument]) -> Self:
        """Compile a document that was found valid."""
        callers = [(document, Caller.compile(document)) for document in loaded.model.callers]
        return cls(
            loaded.version,
            {bytes.fromhex(token): caller for document, caller in callers for token in document.tokens},
            {name: caller for document, caller in callers for name in document.certificates},
        )


@dataclass(slots=True)
class Access:
    """Decides who may call. The document can be replaced while calls are decided; each sees one of both, whole."""

    callers: Callers | None = None
    """None: everybody may do everything."""
    refused: Counter[str] = field(default_factory=Counter)
    """Calls refused, by gRPC's status."""
    rejected: int = 0
    """Documents that were not taken over, since the start."""
    _known: dict[str | bytes, Caller] = field(default_factory=dict)
    """By the whole value of ``authorization``. Callers alone are kept, so strangers cannot fill it."""

    def serves_admin(self, host: str) -> bool:
        """Whether administration may be served on an address: callers are known there, or are on this host.

        Where it may not, ``EnforcerAdmin`` is not registered: its methods are UNIMPLEMENTED.

        Args:
            host: Address that is listened on; a name other than ``localhost`` counts as reachable from elsewhere.
        """
        if self.callers is not None or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def replace(self, callers: Callers) -> None:
        """Put another document in force, from the next call on."""
        self.callers = callers
        self._known.clear()

    def admit(self, role: Role, authorization: str | bytes | None, certificates: Iterable[str] = ()) -> Caller:
        """Find who calls, and insist on the role that the method needs.

        Args:
            role: As ``find_role`` says.
            authorization: Value of the metadata of that name. It alone counts where it is given.
            certificates: Names in the verified client certificate.

        Raises:
            Unauthenticated: Nobody, or nobody who is known.
            PermissionDenied: The caller lacks the role.
        """
        if self.callers is None:
            return ANYBODY
        caller = self._known.get(authorization) if authorization else None
        if caller is None:
            caller = self._identify(self.callers, authorization, certificates)
        caller.require(role)
        return caller

    def _identify(self, callers: Callers, authorization: str | bytes | None, certificates: Iterable[str]) -> Caller:
        if authorization:
            text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
            scheme, _, token = text.partition(" ")
            # Hashes are compared, so how long it takes tells nothing of a token.
            caller = callers.by_token.get(hashlib.sha256(token.encode()).digest()) if scheme.lower() == "bearer" else None
            if caller is not None:
                self._known[authorization] = caller
        else:
            caller = next((callers.by_certificate[name] for name in certificates if name in callers.by_certificate), None)
        if caller is None:
            raise Unauthenticated(NEEDED)
        return caller
