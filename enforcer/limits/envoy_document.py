"""The configuration files of ``envoyproxy/ratelimit``, as they are: one domain each, with nested descriptors.

They are checked as that server checks them, and reported as our own documents are: file, line, key, what is allowed. Where it
passes over a key that stands in a wrong place, this refuses: whoever wrote ``shadow_mode`` inside ``rate_limit`` was not
enforcing what they thought. Source: https://github.com/envoyproxy/ratelimit, README and ``src/config/config_impl.go``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from config.document import Loaded, parse_document

UNITS_S = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}
"""Seconds in each unit of time; a month has 30 days and a year 365, as in that server."""
LARGEST_UINT32 = 2**32 - 1


def _allow_nothing(value: object) -> object:
    """An absent value is an empty list or mapping."""
    return () if value == "" or value is None else value


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ReplacesDocument(_Document):
    """Names a rate limit that does not apply where this one does."""

    name: str = ""


class RateLimitDocument(_Document):
    """The terms of a descriptor."""

    requests_per_unit: Annotated[int, Field(ge=0, le=LARGEST_UINT32)] = 0
    """0 refuses everything."""
    unit: str = ""
    unlimited: bool = False
    name: str = ""
    """What `replaces` of others may say."""
    replaces: Annotated[tuple[ReplacesDocument, ...], BeforeValidator(_allow_nothing)] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.unlimited and self.unit:
            raise ValueError("unlimited: a limit that is unlimited has no unit; leave out one of them")
        if not self.unlimited and self.unit.lower() not in UNITS_S:
            raise ValueError(f"unit: {self.unit!r} is none; {', '.join(UNITS_S)} are allowed")
        for replaced in self.replaces:
            if not replaced.name:
                raise ValueError("replaces: a name is empty; write the name of a rate limit")
            if replaced.name == self.name:
                raise ValueError(f"replaces: {self.name!r} is this rate limit's own name; name another")
        return self


class DescriptorDocument(_Document):
    """One step of a match: a key with this value, with a value of this pattern, or with any value."""

    key: Annotated[str, Field(min_length=1)]
    value: str = ""
    """Empty: any, where no other descriptor beside it matches; `*` stands for any run of characters."""
    rate_limit: Annotated[RateLimitDocument | None, BeforeValidator(lambda value: value or None)] = None
    """None: requests that end here are not limited."""
    descriptors: Annotated[tuple[DescriptorDocument, ...], BeforeValidator(_allow_nothing)] = ()
    shadow_mode: bool = False
    quota_mode: bool = False
    """Accepted, and enforced like any limit. That server lets a request pass while one of several such limits still does; here
    each has to, as of all limits of a request."""
    detailed_metric: bool = False
    """Accepted; metrics here never grow with traffic, and each decision is an event that names its descriptor."""
    value_to_metric: bool = False
    """Accepted, as `detailed_metric`."""
    share_threshold: bool = False
    """All values that match the pattern share one bucket."""
    metadata: Annotated[dict[str, Any], BeforeValidator(lambda value: dict(value) if value else {})] = {}
    """Told to Envoy as dynamic metadata where the descriptor passes."""

    @property
    def composite(self) -> str:
        """What the descriptor is found by among those beside it: ``key`` or ``key_value``."""
        return f"{self.key}_{self.value}" if self.value else self.key

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.share_threshold and "*" not in self.composite:
            raise ValueError(f"share_threshold: {self.composite!r} has no `*`; only values that are patterns can share")
        if (double := find_double(self.descriptors)) is not None:
            raise ValueError(f"descriptors: {double!r} stands twice")
        return self


class DomainDocument(_Document):
    """The whole of one file."""

    domain: Annotated[str, Field(min_length=1)]
    descriptors: Annotated[tuple[DescriptorDocument, ...], BeforeValidator(_allow_nothing)] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if (double := find_double(self.descriptors)) is not None:
            raise ValueError(f"descriptors: {double!r} stands twice")
        return self


def parse_domain(text: str, *, name: str) -> Loaded[DomainDocument]:
    """Validate the text of one file; ``name`` stands for the file in messages.

    Raises:
        DocumentError: The document is refused.
    """
    return parse_document(text, DomainDocument, name=name, loader=yaml.BaseLoader)  # scalars are the text that stands there


def find_double(descriptors: Iterable[DescriptorDocument]) -> str | None:
    """The first composite key that two descriptors side by side have."""
    seen: set[str] = set()
    for descriptor in descriptors:
        if descriptor.composite in seen:
            return descriptor.composite
        seen.add(descriptor.composite)
    return None
