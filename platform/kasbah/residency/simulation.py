"""What another policy would have decided about requests of the past. Pure, no I/O; `decide` is the one of requests.

A past request is asked again exactly as it was: its class as it was named (or not), its tags, its moment and the
sites that served its model then. What of this is not known of a request is not guessed: it is counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import msgspec

from kasbah.residency.classification.raising import raised
from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.decision import Decision, Question, decide, decide_raised

EXAMPLES = 20  # request ids shown of each kind


class Kind(StrEnum):
    """How the answer to one request compares with the one that it got."""

    NEWLY_DENIED = "newly_denied"
    NEWLY_ALLOWED = "newly_allowed"
    MOVED = "moved"  # allowed then and now, but not at the same sites
    UNCHANGED_ALLOWED = "unchanged_allowed"
    UNCHANGED_DENIED = "unchanged_denied"
    NOT_COMPARABLE = "not_comparable"


NOT_LOOKED_FOR = "the policy looks for personal data that nobody looked for in these requests when they came"
CHANGE_COLUMNS = (
    "request_id", "time", "kind", "data_class", "model", "project", "before", "after", "rule", "lost", "gained",
)  # fmt: skip
CHANGES = (Kind.NEWLY_DENIED, Kind.NEWLY_ALLOWED, Kind.MOVED)


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the past: what was asked, and the sites that were compliant then (none: it was denied).

    `looked_for` are the kinds of personal data that the classifier of then looked for, `found` those that it found.
    """

    request_id: str
    time: str  # RFC 3339, UTC
    question: Question
    sites: tuple[UUID, ...]
    looked_for: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the past that cannot be asked again, and why."""

    request_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A request that would be answered otherwise. `lost` and `gained` are slugs of sites, `rule` the new policy's."""

    kind: Kind
    request_id: str
    time: str
    data_class: str
    model: str
    project: str
    before: str  # allowed | denied
    after: str
    rule: str
    lost: tuple[str, ...]
    gained: tuple[str, ...]

    def row(self) -> dict[str, object]:
        """For a table; see CHANGE_COLUMNS."""
        return {name: getattr(self, name) for name in CHANGE_COLUMNS}


@dataclass(slots=True)
class Tally:
    """Exact counts. `groups`: by (dimension, value); `sites`: by slug, how many requests lose or gain it."""

    counts: Counter[Kind] = field(default_factory=Counter)
    groups: dict[tuple[str, str], Counter[Kind]] = field(default_factory=lambda: defaultdict(Counter))
    sites: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unknown: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[Kind, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def requests(self) -> int:
        """All that were looked at."""
        return self.counts.total()

    def add(self, kind: Kind, request_id: str, **dimensions: str) -> None:
        """Count one request."""
        self.counts[kind] += 1
        for item in dimensions.items():
            self.groups[item][kind] += 1
        if kind in (*CHANGES, Kind.NOT_COMPARABLE) and len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(request_id)


def simulate(
    requests: Iterable[Past | Unknown], policy: CompiledPolicy, on_change: Callable[[Change], None] | None = None
) -> Tally:
    """Decide each request again with `policy`. Memory does not grow with their number; `on_change` sees each change."""
    tally = Tally()
    for request in requests:
        change = compare(request, policy) if isinstance(request, Past) else request
        if isinstance(change, Unknown):
            tally.unknown[change.reason] += 1
            tally.add(Kind.NOT_COMPARABLE, change.request_id)
            continue
        tally.add(
            change.kind,
            change.request_id,
            data_class=change.data_class,
            model=change.model,
            project=change.project,
            rule=change.rule,
        )
        for name, slugs in (("lost", change.lost), ("gained", change.gained)):
            for slug in slugs:
                tally.sites[slug][name] += 1
        if on_change is not None and change.kind in CHANGES:
            on_change(change)
    return tally


def compare(request: Past, policy: CompiledPolicy) -> Change | Unknown:
    """One request, then and with `policy`; Unknown where the answer hangs on what nobody looked for."""
    question = _question(request, policy)
    if question is None:
        return Unknown(request_id=request.request_id, reason=NOT_LOOKED_FOR)
    decision = decide_raised(policy, request.question, question)
    before, after = frozenset(request.sites), frozenset(decision.sites)
    lost = tuple(site.slug for site in question.sites if site.id in before - after)
    gained = tuple(site.slug for site in question.sites if site.id in after - before)
    return Change(
        kind=_kind(bool(before), decision.allowed, bool(lost or gained)),
        request_id=request.request_id,
        time=request.time,
        data_class=decision.data_class,
        model=question.model,
        project=question.project,
        before=_word(bool(before)),
        after=_word(decision.allowed),
        rule=_rule(policy, question, decision, lost, gained),
        lost=lost,
        gained=gained,
    )


def _question(request: Past, policy: CompiledPolicy) -> Question | None:
    """What would be decided about: as it was asked, or raised by the policy's own classifier. None: not known.

    What one classifier finds says nothing exact about another's findings, for what one kind covers is hidden from the
    next; but nothing found by one that looks for more is nothing.
    """
    asked, classifier = request.question, policy.classifier
    if classifier is None:
        return asked
    looked, wanted = set(request.looked_for), set(classifier.detect)
    if looked == wanted or (wanted < looked and not request.found):
        return raised(asked, policy, dict.fromkeys(request.found, 1))
    otherwise = raised(asked, policy, dict.fromkeys(wanted, 1))
    same = _answer(decide(policy, asked)) == _answer(decide_raised(policy, asked, otherwise))
    return asked if same else None


def _answer(decision: Decision) -> tuple[object, ...]:
    """All of a decision that is told of."""
    return decision.sites, decision.rule, decision.data_class


def _kind(before: bool, after: bool, other_sites: bool) -> Kind:
    if before and after:
        return Kind.MOVED if other_sites else Kind.UNCHANGED_ALLOWED
    if before:
        return Kind.NEWLY_DENIED
    return Kind.NEWLY_ALLOWED if after else Kind.UNCHANGED_DENIED


def _rule(
    policy: CompiledPolicy, question: Question, decision: Decision, lost: tuple[str, ...], gained: tuple[str, ...]
) -> str:
    """The rule behind the change; where nothing changes, the rule that decided."""
    if not decision.allowed:
        return decision.rule
    if lost:
        return next(item.rule for item in decision.reasons if item.slug == lost[0])
    if gained:
        new = tuple(site for site in question.sites if site.slug == gained[0])
        return decide(policy, msgspec.structs.replace(question, sites=new)).rule
    return decision.rule


def _word(allowed: bool) -> str:
    return "allowed" if allowed else "denied"
