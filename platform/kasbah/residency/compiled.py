"""A policy made ready to decide.

Each condition of each rule becomes one bit in a mask per value ("which rules are content with the class `secret`?").
Deciding is then a few ANDs over integers with as many bits as there are rules, and costs microseconds whatever the
rules look like. Bit 0 is the first rule, so the lowest bit set names the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from kasbah.residency.document import ALL, CLASSES, Classifier, Document, PolicyInvalid, Problem, Retention, Rule, read
from kasbah.residency.places import SiteFact
from kasbah.residency.windows import Clock, WindowInvalid

KEPT = ("none", "commitment", "sealed")  # from least to most
NOTHING_KEPT = Retention(floor_days=0, ceiling_days=0)


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
    zone: Mask
    denies: bool

    def place(self, site: SiteFact) -> int:
        """The rules that are content with a site."""
        return self.site.of(site.slug) & self.jurisdiction.of(site.jurisdiction) & self.zone.of(site.zone)

    def tagged(self, tags: Sequence[str]) -> int:
        """The rules that are content with these tags: one that allows names them all, one that denies any of them."""
        if not self.denies:
            found = -1
            for tag in tags:
                found &= self.tag.of(tag)
            return found
        if not tags:
            return self.untagged
        found = 0
        for tag in tags:
            found |= self.tag.of(tag)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A policy ready to decide. `tenant` None means a document that belongs to no tenant: a simulation, a baseline.

    With a `baseline`, the platform's policy for all tenants, only what both allow is allowed, and only what both let
    keep may be kept.
    """

    tenant: UUID | None
    policy_id: str
    version: int
    document: Document
    rule_ids: tuple[str, ...]
    allow: Side
    deny: Side
    clock: Clock
    baseline: CompiledPolicy | None = None

    @property
    def documents(self) -> tuple[Document, ...]:
        """The tenant's document, and the baseline's if there is one."""
        return (self.document,) if self.baseline is None else (self.document, self.baseline.document)

    @property
    def strictest(self) -> str:
        """The class that a request is taken to be of which names none: the stricter one of both documents."""
        if self.baseline is None:
            return self.document.strictest
        return max(self.document.strictest, self.baseline.document.strictest, key=CLASSES.index)

    @property
    def approval(self) -> str:
        """Which changes a second person must approve: "always" if either document says so, else "loosening"."""
        return "always" if any(document.approval == "always" for document in self.documents) else "loosening"

    @property
    def classifier(self) -> Classifier | None:
        """All that either document looks for, and all that follows from it in either."""
        found = [document.classifier for document in self.documents if document.classifier is not None]
        if not found:
            return None
        return Classifier(
            detect=tuple(dict.fromkeys(kind for item in found for kind in item.detect)),
            tags=tuple(dict.fromkeys(tag for item in found for tag in item.tags)),
            at_least=max((item.at_least for item in found), key=("", *CLASSES).index),
        )

    def content(self, data_class: str) -> str:
        """What may be kept of prompts and answers of this class: "none", "commitment" or "sealed"."""
        return min((document.content.get(data_class, KEPT[0]) for document in self.documents), key=KEPT.index)

    def retention(self, data_class: str) -> Retention:
        """How long sealed content of this class is kept: the greatest floor within the smallest ceiling."""
        found = [document.retention.get(data_class, NOTHING_KEPT) for document in self.documents]
        ceiling = min(item.ceiling_days for item in found)
        return Retention(floor_days=min(max(item.floor_days for item in found), ceiling), ceiling_days=ceiling)


def compile_policy(
    document: Mapping[str, Any],
    *,
    tenant: UUID | None = None,
    policy_id: str = "",
    version: int = 0,
    baseline: CompiledPolicy | None = None,
) -> CompiledPolicy:
    """Make a document ready to decide. Raises PolicyInvalid for one that this version cannot read whole."""
    if baseline is not None and (baseline.tenant is not None or baseline.baseline is not None):
        raise ValueError("a baseline belongs to no tenant and has no baseline of its own")
    parsed = read(document)
    # An effect that is not known denies.
    rules = [(bit, rule, rule.effect != "allow") for bit, rule in enumerate(parsed.rules)]
    try:
        clock = Clock((bit, denies, rule.windows) for bit, rule, denies in rules)
    except WindowInvalid as error:
        raise PolicyInvalid([Problem("/rules", str(error))]) from error
    return CompiledPolicy(
        tenant=tenant,
        policy_id=policy_id,
        version=version,
        document=parsed,
        rule_ids=tuple(rule.id for rule in parsed.rules),
        allow=_side([(bit, rule) for bit, rule, denies in rules if not denies], denies=False),
        deny=_side([(bit, rule) for bit, rule, denies in rules if denies], denies=True),
        clock=clock,
        baseline=baseline,
    )


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
        site=_mask(rules, lambda rule: rule.sites, lambda rule: denies or _names_place(rule)),
        jurisdiction=_mask(rules, lambda rule: rule.jurisdictions, lambda rule: denies or _names_place(rule)),
        zone=_mask(rules, lambda rule: rule.zones, lambda rule: denies or _names_place(rule)),
        denies=denies,
    )


def _names_place(rule: Rule) -> bool:
    return bool(rule.sites or rule.jurisdictions or rule.zones)


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
