"""Plans checks under one document, and remembers what planning them has in common. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from enforcer.decisions.layouts import Layouts
from enforcer.decisions.plan import Chosen, Descriptor, Plan, Template, build_plan, compile_template, vary_template
from enforcer.limits.bucket import Generation, Terms
from enforcer.limits.check import CALLER, Check, InvalidCheck
from enforcer.limits.policy import Limit, Override, Overrides, Policies, is_enforced_for
from lua.keys import join_subjects, name_attribute, name_subject

MOST_TEMPLATES = 4096
"""Distinct actions are the callers' choice: past this many templates all are compiled anew."""

MOST_RETURNING = 20_000
"""Requests remembered because they were refused: whoever sends them sends them again."""

_USER_ALONE: Descriptor = (("user", 0),)


def _never() -> int:
    return 0


@dataclass(slots=True)
class Planner:
    """Plans checks under one policies document; keeps at most ``MOST_TEMPLATES`` templates."""

    policies: Policies
    now_ms: Callable[[], int] = _never
    """The clock that overrides end by, milliseconds since the epoch; with the default they do not end."""
    checks: Layouts = field(default_factory=Layouts)
    """Of ``CheckRequest``."""
    requests: Layouts = field(default_factory=Layouts)
    """Of Envoy's ``RateLimitRequest``."""
    overrides: dict[str, Mapping[tuple[str, str], Override]] = field(init=False)
    """In force by subject: those of the document, and what ``override`` has put in their place."""
    names_callers: bool = field(init=False)
    """Whether the document declares the attribute ``caller``: then each plan is its caller's own."""
    _templates: dict[object, Template] = field(default_factory=dict)
    _fitted: dict[tuple[Template, tuple[Limit, ...]], Template] = field(default_factory=dict)
    _overridden: dict[tuple[Limit, Terms], Limit] = field(default_factory=dict)
    _returning: dict[bytes, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.overrides = dict(self.policies.overrides)
        self.names_callers = CALLER in self.policies.attribute_kinds or CALLER in self.policies.attributes

    def override(self, run_time: Overrides) -> None:
        """Put overrides that were made at run time in force, for the subjects that are named and no others.

        All that was made at run time for such a subject before is replaced; where that leaves nothing, the document's hold. The
        cached refusals of these subjects are not this object's: whoever calls has them forgotten.

        Args:
            run_time: By subject, all of its overrides; empty for none any more.
        """
        documents = self.policies.overrides
        for subject, overrides in run_time.items():
            in_force = {**documents[subject], **overrides} if subject in documents else overrides
            if in_force:
                self.overrides[subject] = in_force
            else:
                self.overrides.pop(subject, None)
        self._returning.clear()

    def is_overridden(self, plan: Plan) -> bool:
        """Whether a subject of the plan has overrides: it is to be planned anew each time, for they end."""
        overrides = self.overrides
        return any(subject in overrides for subject in plan.subjects)

    def recall(self, request: bytes) -> Plan | None:
        """The plan of a request, byte for byte, that was refused lately."""
        return self._returning.get(request)

    def expect(self, request: bytes, plan: Plan) -> None:
        """Remember the plan of a request that was refused."""
        if request in self._returning or plan.template.is_overridden:
            return  # an override may have ended, or begun, since this was planned
        if not (self.overrides and self.is_overridden(plan)):
            if len(self._returning) >= MOST_RETURNING:
                self._returning.clear()
            self._returning[request] = plan

    def find(self, action: str, descriptors: tuple[Descriptor | Chosen, ...]) -> Template:
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
            InvalidCheck: It could never pass: the cost is above the capacity of a limit that applies, or a subject is absent
                that a limit requires.
        """
        subjects = [name_subject("user", check.user_id)]
        attributes: list[str] = []
        descriptor: Descriptor = _USER_ALONE
        if check.attributes:
            policies = self.policies
            for kinds, names in ((policies.attribute_kinds, subjects), (policies.attributes, attributes)):
                for kind in kinds:
                    value = check.attributes.get(kind)
                    if value:
                        descriptor = (*descriptor, (kind, len(subjects) + len(attributes)))
                        names.append(name_attribute(kind, value))
        plan = self.build(check, (descriptor,), subjects, attributes)
        if check.cost > plan.template.smallest_capacity:
            raise InvalidCheck(_describe_refusal(check, plan.template))
        return plan

    def build(
        self,
        check: Check,
        descriptors: tuple[Descriptor | Chosen, ...],
        subjects: Sequence[str],
        attributes: Sequence[str] = (),
    ) -> Plan:
        """Plan a check of any descriptors; whether it could ever pass is not looked at.

        Args:
            check: The check.
            descriptors: What each names, by slot.
            subjects: Names of the declared subjects, in the first slots.
            attributes: Names of the further attributes that limits may be ``per``, in the slots after them.
        """
        template = self.find(check.action, descriptors)
        if template.varies or self.overrides:
            template = self._fit(template, check, [*subjects, *attributes])
        return build_plan(check, template, subjects, attributes)

    def _fit(self, template: Template, check: Check, names: Sequence[str]) -> Template:
        """Choose each limit's form: on the terms of an override, else of the tier; in shadow mode where not enforced."""
        own = [self.overrides.get(name) for name in names]
        if template.is_incomplete or not (template.varies or any(own)):
            return template
        tier = check.attributes.get(self.policies.tier, "")
        forms, is_overridden = [], False
        for limit, (_, slots) in zip(template.limits, template.buckets, strict=True):
            terms = self._find_override(limit, [own[slot] for slot in slots])
            is_overridden = is_overridden or terms is not None
            form = limit.tiers.get(tier, limit) if terms is None else self._override_limit(limit, terms)
            if form.shadow is not None and not is_enforced_for(form, join_subjects([names[slot] for slot in slots])):
                form = form.shadow
            forms.append(form)
        key = (template, tuple(forms))
        fitted = self._fitted.get(key)
        if fitted is None:
            if len(self._fitted) >= MOST_TEMPLATES:
                self._fitted.clear()
            fitted = self._fitted[key] = vary_template(*key, is_overridden=is_overridden)
        return fitted

    def _find_override(self, limit: Limit, own: Iterable[Mapping[tuple[str, str], Override] | None]) -> Terms | None:
        """The terms for the first subject of ``per`` that has an override of this limit that has not ended."""
        for overrides in own:
            override = overrides.get((limit.policy, limit.name)) if overrides else None
            if override is not None and (override.until_ms is None or self.now_ms() < override.until_ms):
                return override.terms
        return None

    def _override_limit(self, limit: Limit, terms: Terms) -> Limit:
        """The limit on these terms: one object for all who have them, for limits are told apart by identity.

        They are of the document's generation, also those that were made at run time, which count since then.
        """
        overridden = self._overridden.get((limit, terms))
        if overridden is None:
            if len(self._overridden) >= MOST_TEMPLATES:
                self._overridden.clear()
            overridden = self._overridden[limit, terms] = limit.with_terms(
                terms.under(Generation(self.policies.generation.number, terms.generation.since_us))
            )
        return overridden


def _describe_refusal(check: Check, template: Template) -> str:
    if template.is_incomplete:
        limit, named = template.limits[0], (*template.kinds, *template.attributes, "action")
        absent = [kind for kind in limit.per if kind not in named]
        return f"attributes: {absent[0]} is absent; limit {limit.label} requires it"
    limit = min((limit for limit in template.limits if not limit.is_shadow), key=lambda limit: limit.terms.capacity)
    return f"cost is {check.cost}; limit {limit.label} holds at most {limit.terms.capacity} tokens"
