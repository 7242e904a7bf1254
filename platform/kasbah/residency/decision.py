"""The decision: where may this request be processed? Pure, no I/O; the gateway, matrix and simulator share it.

Each condition of each rule becomes, when a policy is compiled, one bit in a mask per value ("which rules are
content with the class `secret`?"). Deciding is then a few ANDs over integers with as many bits as there are rules,
and costs microseconds whatever the rules look like. Bit 0 is the first rule, so the lowest bit set names the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from kasbah.residency.document import ALL, CLASSES, Document, Rule, read

# No rule can have these as its id: an id has no underscore.
NO_POLICY = "no_policy"  # the tenant has no active policy
NO_SITE = "no_site"  # the model is served nowhere
DEFAULT_DENY = "default_deny"  # no rule allows it


class SiteFact(msgspec.Struct, frozen=True):
    """What the decision knows of a site."""

    id: UUID
    slug: str
    jurisdiction: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. `data_class` "" means the strictest; `project` is an id; `sites` are those of the deployment."""

    tenant: UUID
    data_class: str
    model: str
    sites: tuple[SiteFact, ...]
    tags: tuple[str, ...] = ()
    purpose: str = ""
    project: str = ""


class Exclusion(msgspec.Struct, frozen=True):
    """Why a site is not among the compliant ones: the rule that denies it, or DEFAULT_DENY or NO_POLICY."""

    site: UUID
    slug: str
    rule: str


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
        sites = ", ".join(f"{item.slug} ({because(item.rule)})" for item in self.reasons)
        what = f"class {self.data_class}, policy version {self.policy_version}"
        if self.allowed:
            return f"Allowed by rule {self.rule} ({what})." + (f" Excluded: {sites}." if sites else "")
        return f"No site may process this ({what}): {sites}."


def because(rule: str) -> str:
    """Why a site is excluded, in words."""
    if rule == NO_POLICY:
        return "there is no active policy"
    return "no rule allows it" if rule == DEFAULT_DENY else f"denied by rule {rule}"


class Mask(msgspec.Struct, frozen=True):
    """Which rules a value satisfies: `named` by value, and `otherwise` for every other value."""

    named: dict[str, int]
    otherwise: int

    def of(self, value: str) -> int:
        """The rules that are content with `value`."""
        return self.named.get(value, self.otherwise)


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one effect, condition by condition. Bits are positions in the document's list of rules."""

    data_class: Mask
    model: Mask
    tag: Mask
    untagged: int  # rules that name no tags
    purpose: Mask
    project: Mask
    site: Mask
    jurisdiction: Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A policy ready to decide. `tenant` None means a document that belongs to no tenant yet (a simulation)."""

    tenant: UUID | None
    policy_id: str
    version: int
    document: Document
    rule_ids: tuple[str, ...]
    allow: Side
    deny: Side


def compile_policy(
    document: Mapping[str, Any], *, tenant: UUID | None = None, policy_id: str = "", version: int = 0
) -> CompiledPolicy:
    """Make a document ready to decide. Raises PolicyInvalid for one that this version cannot read whole."""
    parsed = read(document)
    rules = list(enumerate(parsed.rules))
    return CompiledPolicy(
        tenant=tenant,
        policy_id=policy_id,
        version=version,
        document=parsed,
        rule_ids=tuple(rule.id for rule in parsed.rules),
        allow=_side([(bit, rule) for bit, rule in rules if rule.effect == "allow"], denies=False),
        # An effect that is not known denies.
        deny=_side([(bit, rule) for bit, rule in rules if rule.effect != "allow"], denies=True),
    )


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
    data_class = question.data_class or policy.document.strictest
    sites, rule, reasons = _sites(policy, data_class, question)
    return Decision(
        allowed=bool(sites),
        sites=sites,
        rule=rule,
        policy_id=policy.policy_id,
        policy_version=policy.version,
        data_class=data_class,
        reasons=reasons,
    )


def _sites(
    policy: CompiledPolicy, data_class: str, question: Question
) -> tuple[tuple[UUID, ...], str, tuple[Exclusion, ...]]:
    """The compliant sites, the rule that decided, and why each other site was excluded."""
    if not question.sites:
        return (), NO_SITE, ()
    allow, deny = policy.allow, policy.deny
    allows, denies = _applicable(allow, data_class, question), _applicable(deny, data_class, question)
    for tag in question.tags:
        allows &= allow.tag.of(tag)  # a rule that allows must name every tag
    if question.tags:
        tagged = 0
        for tag in question.tags:
            tagged |= deny.tag.of(tag)  # for one that denies, one is enough
        denies &= tagged
    else:
        denies &= deny.untagged
    sites: list[UUID] = []
    reasons: list[Exclusion] = []
    allowing = denying = ""
    for site in question.sites:
        denied = denies & deny.site.of(site.slug) & deny.jurisdiction.of(site.jurisdiction)
        allowed = allows & allow.site.of(site.slug) & allow.jurisdiction.of(site.jurisdiction)
        if allowed and not denied:
            sites.append(site.id)
            allowing = allowing or policy.rule_ids[_lowest(allowed)]
            continue
        rule = policy.rule_ids[_lowest(denied)] if denied else DEFAULT_DENY
        denying = denying or (rule if denied else "")
        reasons.append(Exclusion(site.id, site.slug, rule))
    return tuple(sites), allowing or denying or DEFAULT_DENY, tuple(reasons)


def _applicable(side: Side, data_class: str, question: Question) -> int:
    """The rules whose conditions hold, but for tags and places."""
    return (
        side.data_class.of(data_class)
        & side.model.of(question.model)
        & side.purpose.of(question.purpose)
        & side.project.of(question.project)
    )


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _side(rules: list[tuple[int, Rule]], *, denies: bool) -> Side:
    """A rule that allows must be explicit about class, model and place; one that denies is about all it leaves out."""
    everyone = sum(1 << bit for bit, _ in rules)
    purpose = _mask(rules, lambda rule: rule.purposes, lambda _: True)
    if denies:
        # Who names no purpose could have any: leaving it out must not be the way around a rule.
        purpose = Mask({**purpose.named, "": everyone}, purpose.otherwise)
    return Side(
        data_class=_mask(rules, lambda rule: rule.data_classes, lambda _: denies),
        model=_mask(rules, lambda rule: rule.models, lambda _: denies),
        tag=_mask(rules, lambda rule: rule.tags, lambda _: denies),
        untagged=sum(1 << bit for bit, rule in rules if not rule.tags),
        purpose=purpose,
        project=_mask(rules, lambda rule: rule.projects, lambda _: True),
        site=_mask(rules, lambda rule: rule.sites, lambda rule: denies or bool(rule.jurisdictions)),
        jurisdiction=_mask(rules, lambda rule: rule.jurisdictions, lambda rule: denies or bool(rule.sites)),
    )


def _mask(
    rules: list[tuple[int, Rule]], values: Callable[[Rule], tuple[str, ...]], absent: Callable[[Rule], bool]
) -> Mask:
    """`values` are what a rule names; `absent` says whether one that names none is content with every value."""
    otherwise = 0
    named: dict[str, int] = {}
    for bit, rule in rules:
        listed = values(rule)
        if ALL in listed or (not listed and absent(rule)):
            otherwise |= 1 << bit
        else:
            for value in listed:
                named[value] = named.get(value, 0) | 1 << bit
    return Mask({value: mask | otherwise for value, mask in named.items()}, otherwise)
