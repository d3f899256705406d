"""Subjects that no rule punishes. Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from detector.rules import Exemption
from lua.keys import name_subject
from topics.abuse import decay_score
from topics.events import AbuseState, VerdictEvent

_Network = IPv4Network | IPv6Network


class Allowlist:
    """The exemptions of one rules document, ready to be asked."""

    def __init__(self, exemptions: Sequence[Exemption]) -> None:
        self._exemptions = exemptions
        self._by_subject: dict[str, list[Exemption]] = defaultdict(list)
        self._networks: list[tuple[_Network, Exemption]] = []
        for exemption in exemptions:
            if subject := find_subject(exemption):
                self._by_subject[subject].append(exemption)
            else:
                self._networks.append((exemption.network, exemption))

    def find(self, subject: str, at_ms: int) -> Exemption | None:
        """Give the exemption that covers a subject at a time, if there is one.

        Args:
            subject: ``kind=value``.
            at_ms: Event time of an offence; an exemption that ends then does not cover it.
        """
        for exemption in self._by_subject.get(subject, ()):
            if _lasts(exemption, at_ms):
                return exemption
        if self._networks and subject.startswith("ip="):
            address = _read_network(subject.removeprefix("ip="))
            for network, exemption in self._networks:
                if address is not None and _contains(network, address) and _lasts(exemption, at_ms):
                    return exemption
        return None

    def list_subjects(self, seen: Iterable[str], at_ms: int) -> dict[str, Exemption]:
        """Give who is exempt now: those who are named, and of those who were seen the ones in a network.

        Args:
            seen: Subjects, ``kind=value``; looked at only if there are networks.
            at_ms: Now.
        """
        named = {subject: found for subject in self._by_subject if (found := self.find(subject, at_ms))}
        if not self._networks:
            return named
        return named | {subject: found for subject in seen if subject not in named and (found := self.find(subject, at_ms))}


def find_subject(exemption: Exemption) -> str:
    """Name the subject of an exemption; empty for a network of several."""
    if exemption.kind != "ip":
        return name_subject(exemption.kind, exemption.value)
    network = exemption.network
    if isinstance(network, IPv6Network):
        return name_subject("ip", str(network)) if network.prefixlen == 64 else ""
    return name_subject("ip", str(network.network_address)) if network.prefixlen == 32 else ""


def has_bans_to_end(state: AbuseState, now_ms: int) -> bool:
    """Whether rules have banned the subject. While a person's ban lasts nothing is ended: it outranks the allowlist."""
    lasting = [ban for ban in state.bans if ban.until_ms > now_ms]
    return bool(lasting) and all(ban.rule for ban in lasting)


def identify_lift(subject: str, exemption: Exemption, state: AbuseState) -> str:
    """Name the end of these bans by this exemption: the same for every detector that comes to it.

    Returns:
        32 hexadecimal digits.
    """
    until = exemption.until.isoformat() if exemption.until else ""
    parts = (subject, exemption.actor, exemption.reason, until, *(ban.verdict_id for ban in state.bans))
    sized = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(sized.encode(), digest_size=16).hexdigest()


def make_lift_event(subject: str, exemption: Exemption, verdict_id: str, state: AbuseState, at_ms: int) -> VerdictEvent:
    """Write the audit's entry of ended bans. A repeat gives the same bytes.

    Args:
        subject: Whose.
        exemption: Why.
        verdict_id: As :func:`identify_lift` gives it.
        state: As it is afterwards.
        at_ms: When, on Redis's clock.
    """
    score = decay_score(state.score, at_ms - state.score_at_ms, state.half_life_ms)
    return VerdictEvent(
        verdict_id=verdict_id,
        subject=subject,
        penalty="lift",
        result="applied",
        at_ms=at_ms,
        applied_at_ms=at_ms,
        rev=state.rev,
        score_before=score,
        score_after=score,
        level=state.level,
        actor=exemption.actor,
        reason=exemption.reason,
    )


def _lasts(exemption: Exemption, at_ms: int) -> bool:
    return exemption.until is None or at_ms < exemption.until.timestamp() * 1000


def _read_network(text: str) -> _Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _contains(network: _Network, address: _Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(address, IPv4Network) and address.subnet_of(network)
    return isinstance(address, IPv6Network) and address.subnet_of(network)
