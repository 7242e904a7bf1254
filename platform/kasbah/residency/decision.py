"""The decision: where may this request be processed? Pure, no I/O; the gateway, matrix and simulator share it."""

from __future__ import annotations

from uuid import UUID

import msgspec

from kasbah.residency.compiled import CompiledPolicy, Side
from kasbah.residency.document import CLASSES
from kasbah.residency.places import SiteFact

# No rule can have these as its id: an id has no underscore.
NO_POLICY = "no_policy"  # the tenant has no active policy
NO_SITE = "no_site"  # the model is served nowhere
DEFAULT_DENY = "default_deny"  # no rule allows it
BASELINE = "baseline/"  # before the name of a rule: it is the platform's, not the tenant's

# Where a classifier raised a request, it is decided about twice: as it was declared, and as it was raised.
DECLARED, RAISED = "declared", "raised"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. `data_class` "" means the strictest; `project` is an id; `sites` are those of the deployment.

    `at` is when, in seconds since the epoch, UTC; 0 is not known: rules that allow at times only then do not apply.
    """

    tenant: UUID
    data_class: str
    model: str
    sites: tuple[SiteFact, ...]
    tags: tuple[str, ...] = ()
    purpose: str = ""
    project: str = ""
    at: int = 0


class Exclusion(msgspec.Struct, frozen=True):
    """Why a site is not among the compliant ones: the rule that denies it, or DEFAULT_DENY or NO_POLICY.

    Where it is the platform's baseline that denies, BASELINE stands before the name, whatever the tenant's rules say.
    """

    site: UUID
    slug: str
    rule: str
    reading: str = ""  # DECLARED or RAISED: as which of the two it is excluded, of a request that was raised


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `sites` are the compliant ones, in the order of the question; nothing may ever leave them.

    `rule` is the rule that allows the first of them or, when denied, that caused it.
    """

    allowed: bool
    sites: tuple[UUID, ...]
    rule: str
    policy_id: str
    policy_version: int
    data_class: str  # the one that was decided about
    reasons: tuple[Exclusion, ...]
    baseline_version: int = 0  # 0: there is no baseline
    declared_class: str = ""  # of a request that was raised: its class before; "" if it was not
    denied_as: tuple[str, ...] = ()  # of such a request, when denied: DECLARED, RAISED, or both

    @property
    def classes(self) -> tuple[str, ...]:
        """Those whose obligations hold for what is kept: also the one that it was declared to be of."""
        return tuple(dict.fromkeys(filter(None, (self.data_class, self.declared_class))))

    @property
    def policy(self) -> str:
        """`<policy id>@<version>`, as tickets and receipts name it."""
        return f"{self.policy_id}@{self.policy_version}" if self.policy_id else ""

    def explain(self) -> str:
        """One sentence for the person whose request was denied or who wonders why a site is not used."""
        if self.rule == NO_POLICY:
            return "The tenant has no active residency policy, so nothing is allowed."
        if self.rule == NO_SITE:
            return "The model is not served at any site."
        sites = ", ".join(f"{item.slug} ({because(item.rule, item.reading)})" for item in self.reasons)
        raised = (
            f" (declared {self.declared_class}, and raised for what was found in it)" if self.declared_class else ""
        )
        what = f"class {self.data_class}{raised}, policy version {self.policy_version}"
        if self.baseline_version:
            what += f", baseline version {self.baseline_version}"
        if self.allowed:
            return f"Allowed by rule {self.rule} ({what})." + (f" Excluded: {sites}." if sites else "")
        return f"No site may process this ({what}): {sites}."


def because(rule: str, reading: str = "") -> str:
    """Why a site is excluded, in words."""
    if rule == NO_POLICY:
        return "there is no active policy"
    whose, _, name = rule.rpartition("/")
    owner = " of the platform's baseline" if whose else ""
    suffix = f", as it was {reading}" if reading else ""
    return (f"no rule{owner} allows it" if name == DEFAULT_DENY else f"denied by rule {name}{owner}") + suffix


def decide(policy: CompiledPolicy | None, question: Question) -> Decision:
    """Which of the question's sites may process it. Deny by default; a rule that denies wins over all that allow."""
    if policy is None:
        reasons = tuple(Exclusion(site.id, site.slug, NO_POLICY) for site in question.sites)
        return Decision(
            allowed=False,
            sites=(),
            rule=NO_POLICY,
            policy_id="",
            policy_version=0,
            data_class=question.data_class or CLASSES[-1],
            reasons=reasons,
        )
    if policy.tenant is not None and policy.tenant != question.tenant:
        raise ValueError("the policy of one tenant was asked about a request of another")
    data_class = question.data_class or policy.strictest
    sites, rule, reasons = _sites(policy, data_class, question)
    return Decision(
        allowed=bool(sites),
        sites=sites,
        rule=rule,
        policy_id=policy.policy_id,
        policy_version=policy.version,
        data_class=data_class,
        reasons=reasons,
        baseline_version=policy.baseline.version if policy.baseline is not None else 0,
    )


def decide_raised(policy: CompiledPolicy | None, declared: Question, raised: Question) -> Decision:
    """What may be done with a request that a classifier raised: only what both readings of it allow.

    Rules may allow a stricter class where they deny a looser one, so a class that is raised could open a request. It
    never does: a site must be compliant for what the request was declared to be and for what it was raised to.
    """
    decision = decide(policy, raised)
    if declared == raised or policy is None:
        return decision
    before = decide(policy, declared)
    both = msgspec.structs.replace(raised, sites=tuple(site for site in raised.sites if site.id in before.sites))
    final = decide(policy, both) if before.allowed else before
    readings = ((DECLARED, before), (RAISED, decision))
    denied_as = tuple(name for name, reading in readings if not reading.allowed) or (DECLARED, RAISED)
    return msgspec.structs.replace(
        decision,
        allowed=final.allowed,
        sites=final.sites,
        rule=final.rule,
        reasons=tuple(
            msgspec.structs.replace(item, reading=name) for name, reading in readings for item in reading.reasons
        ),
        declared_class=before.data_class,
        denied_as=() if final.allowed else denied_as,
    )


def _sites(
    policy: CompiledPolicy, data_class: str, question: Question
) -> tuple[tuple[UUID, ...], str, tuple[Exclusion, ...]]:
    """The compliant sites, the rule that decided, and why each other site was excluded."""
    if not question.sites:
        return (), NO_SITE, ()
    verdicts = _verdicts(policy, data_class, question)
    if policy.baseline is not None:
        # The baseline is named first: what it denies, no change of the tenant's own policy can open.
        bounds = _verdicts(policy.baseline, data_class, question)
        verdicts = [
            own if within else (False, BASELINE + rule) for own, (within, rule) in zip(verdicts, bounds, strict=True)
        ]
    sites: list[UUID] = []
    reasons: list[Exclusion] = []
    allowing = denying = ""
    for site, (allowed, rule) in zip(question.sites, verdicts, strict=True):
        if allowed:
            sites.append(site.id)
            allowing = allowing or rule
        else:
            denying = denying or (rule if rule != DEFAULT_DENY else "")
            reasons.append(Exclusion(site.id, site.slug, rule))
    return tuple(sites), allowing or denying or DEFAULT_DENY, tuple(reasons)


def _verdicts(policy: CompiledPolicy, data_class: str, question: Question) -> list[tuple[bool, str]]:
    """For each site, in the order of the question: whether this policy alone allows it, and by which rule or not."""
    allow, deny = policy.allow, policy.deny
    now = policy.clock.mask(question.at)
    allows = allow.tagged(question.tags) & _applicable(allow, now, data_class, question)
    denies = deny.tagged(question.tags) & _applicable(deny, now, data_class, question)
    verdicts = []
    for site in question.sites:
        if denied := denies & deny.place(site):
            verdicts.append((False, policy.rule_ids[_lowest(denied)]))
        elif allowed := allows & allow.place(site):
            verdicts.append((True, policy.rule_ids[_lowest(allowed)]))
        else:
            verdicts.append((False, DEFAULT_DENY))
    return verdicts


def _applicable(side: Side, now: int, data_class: str, question: Question) -> int:
    """The rules whose conditions hold, but for tags and places; `now` are those whose windows do."""
    return (
        now
        & side.data_class.of(data_class)
        & side.model.of(question.model)
        & side.purpose.of(question.purpose)
        & side.project.of(question.project)
    )


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1
