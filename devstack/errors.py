"""What can go wrong with a stack, as one error that says what is wrong and what to do."""

from __future__ import annotations


class DevstackError(Exception):
    """Something that a person has to change: a wheel that is missing, a full disk, a wrong option.

    Attributes:
        problem: What is wrong, in one sentence without a final stop.
        remedy: What to do about it, in one sentence; empty where the problem says it all.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}. {remedy}" if remedy else problem)


class ServiceFailedError(DevstackError):
    """A service ended before it was ready, or was not ready in time.

    The supervisor that raises this out of ``start`` has stopped all its services already: do not call ``stop``.
    """
