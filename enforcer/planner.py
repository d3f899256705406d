"""Plans checks under one document, and remembers what planning them has in common. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from enforcer.check import Check, InvalidCheck
from enforcer.layouts import Layouts
from enforcer.plan import Descriptor, Plan, Template, build_plan, compile_template, name_attribute
from enforcer.policy import Policies
from lua.keys import name_subject

MOST_TEMPLATES = 4096
"""Distinct actions are the callers' choice: past this many templates all are compiled anew."""

MOST_RETURNING = 20_000
"""Requests remembered because they were refused: whoever sends them sends them again."""

_USER_ALONE: Descriptor = (("user", 0),)


@dataclass(slots=True)
class Planner:
    """Plans checks under one policies document; keeps at most ``MOST_TEMPLATES`` templates."""

    policies: Policies
    checks: Layouts = field(default_factory=Layouts)
    """Of ``CheckRequest``."""
    requests: Layouts = field(default_factory=Layouts)
    """Of Envoy's ``RateLimitRequest``."""
    _templates: dict[object, Template] = field(default_factory=dict)
    _returning: dict[bytes, Plan] = field(default_factory=dict)

    def recall(self, request: bytes) -> Plan | None:
        """The plan of a request, byte for byte, that was refused lately."""
        return self._returning.get(request)

    def expect(self, request: bytes, plan: Plan) -> None:
        """Remember the plan of a request that was refused."""
        if request not in self._returning:
            if len(self._returning) >= MOST_RETURNING:
                self._returning.clear()
            self._returning[request] = plan

    def find(self, action: str, descriptors: tuple[Descriptor, ...]) -> Template:
        """Find or compile the template of this form."""
        template = self._templates.get((action, descriptors))
        if template is None:
            if len(self._templates) >= MOST_TEMPLATES:
                self._templates.clear()
            template = self._templates[action, descriptors] = compile_template(self.policies, action, descriptors)
        return template

    def plan(self, check: Check) -> Plan:
        """Plan one check: it is one descriptor, of the user and of the declared attributes that it carries.

        Raises:
            InvalidCheck: The cost is above the capacity of a limit that applies: it could never pass.
        """
        subjects = [name_subject("user", check.user_id)]
        descriptor: Descriptor = _USER_ALONE
        if check.attributes:
            for kind in self.policies.attribute_kinds:
                value = check.attributes.get(kind)
                if value:
                    descriptor = (*descriptor, (kind, len(subjects)))
                    subjects.append(name_attribute(kind, value))
        template = self.find(check.action, (descriptor,))
        if check.cost > template.smallest_capacity:
            enforced = [limit for limit in template.limits if not limit.is_shadow]
            limit = min(enforced, key=lambda limit: limit.terms.capacity)
            raise InvalidCheck(f"cost is {check.cost}; limit {limit.label} holds at most {limit.terms.capacity} tokens")
        return build_plan(check, template, subjects)
