"""What a client raises. Over limit, banned and degraded are values of ``Decision``, never exceptions."""

from __future__ import annotations


class NoDecision(Exception):  # noqa: N818 it says what is the case
    """The enforcer gave no decision in time, or could not be reached, and the client was told to raise.

    Tokens may be spent: do not ask again for this request. Serve or refuse it by a rule of your own.

    Attributes:
        why: The gRPC status in lower-case words, such as ``deadline exceeded``; fit for a header.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        self.why = why
        super().__init__(f"no decision: {why}{': ' if detail else ''}{detail}")


class NotPermitted(Exception):  # noqa: N818 it says what is the case
    """The enforcer knows this client not at all, or does not let it ask this: its token, certificate or role is wrong.

    Never serve the request because of it, and do not ask again before the configuration is mended.
    """
