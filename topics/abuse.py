"""What holds for everything held against a subject, whoever decides it: the detector by its ladder, or a person. Pure.

The scripts that write :class:`topics.events.AbuseState` follow the same rules.
"""

from __future__ import annotations

from topics.events import Ban


def decay_score(score: int, elapsed_ms: int, half_life_ms: int) -> int:
    """Forget: half the score per half-life, in whole thousandths, with a straight line between the halvings.

    Args:
        score: In 1/1000 strikes, >= 0.
        elapsed_ms: Since the score began to decay; below 0 nothing decays.
        half_life_ms: 0 where it is not known: nothing is forgotten.
    """
    if elapsed_ms <= 0 or half_life_ms == 0:
        return score
    halvings, rest_ms = divmod(elapsed_ms, half_life_ms)
    if halvings > 50:
        return 0
    score >>= halvings
    return score - (score - score // 2) * rest_ms // half_life_ms


def covers(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    """Whether a ban of one scope is one of the other too.

    Whether one glob holds another is not decided in general: the same globs, or all actions.
    """
    return "*" in wide or set(narrow) <= set(wide)


def add_ban(bans: tuple[Ban, ...], ban: Ban, *, at_ms: int) -> tuple[Ban, ...]:
    """Add a ban; those that are over, or that it covers and outlasts, go.

    Args:
        bans: In force so far.
        ban: The new one.
        at_ms: When it begins.

    Returns:
        Latest end first.
    """
    kept = [
        other
        for other in bans
        if other.until_ms > at_ms and not (other.until_ms <= ban.until_ms and covers(ban.scope, other.scope))
    ]
    return tuple(sorted((*kept, ban), key=lambda one: (-one.until_ms, one.verdict_id)))


def wrap_state(subject: str, state: bytes) -> bytes:
    """Write the event that tells a subject's state: the bytes that the script wrote, so that topic and Redis hold the same.

    Args:
        subject: As ``lua.keys.name_subject`` writes it.
        state: JSON of an ``AbuseState``.
    """
    return b'{"v":1,"type":"subject","subject":"' + subject.encode() + b'","state":' + state + b"}"
