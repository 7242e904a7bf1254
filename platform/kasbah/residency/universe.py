"""Every question that policies can tell apart, in few classes: values that all their rules treat alike are one class.

Sites, models, projects and purposes that no rule names are alike too, so there are finitely many classes, and looking
at one value of each is looking at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from kasbah.residency.compiled import CompiledPolicy, Mask, Side
from kasbah.residency.document import ALL, CLASSES, Rule
from kasbah.residency.instants import TooLarge, instants
from kasbah.residency.places import SiteFact
from kasbah.residency.windows import Clock

OTHER = "any other"  # no value has this as its name
NOBODY = UUID(int=0)  # the id of a site that is made up
LARGEST_AXIS = 20_000  # values


class Masks(NamedTuple):
    """The rules of one policy that are content with a value."""

    allow: int
    deny: int


@dataclass(frozen=True, slots=True)
class Group:
    """Values that no rule tells apart; `masks` has an entry for each policy."""

    values: tuple[str, ...]
    masks: tuple[Masks, ...]


@dataclass(frozen=True, slots=True)
class Universe:
    """The classes of each condition. Values of `places` are `slug (jurisdiction, zone)`, of `times` are numbers."""

    data_classes: tuple[Group, ...]
    models: tuple[Group, ...]
    places: tuple[Group, ...]
    times: tuple[Group, ...]
    purposes: tuple[Group, ...]
    projects: tuple[Group, ...]
    tags: tuple[str, ...]


def layers(policy: CompiledPolicy | None) -> tuple[CompiledPolicy, ...]:
    """The policies that must all allow: the tenant's, and the baseline if there is one."""
    if policy is None:
        return ()
    return (policy,) if policy.baseline is None else (policy, policy.baseline)


def universe(old: CompiledPolicy | None, new: CompiledPolicy, sites: Sequence[SiteFact], since: int = 0) -> Universe:
    """All that `new` and `old` can tell apart; masks are those of the layers of `new`, then of `old`.

    Raises TooLarge.
    """
    every = (*layers(new), *layers(old))

    def axis(values: Iterable[str], mask: Callable[[Side], Mask]) -> tuple[Group, ...]:
        return _groups((v, [Masks(mask(p.allow).of(v), mask(p.deny).of(v)) for p in every]) for v in values)

    clocks = [policy.clock for policy in every]
    return Universe(
        data_classes=_groups(_classes(old, new)),
        models=axis((OTHER, *_named(every, lambda rule: rule.models)), lambda side: side.model),
        places=_groups(
            (
                f"{site.slug} ({', '.join(filter(None, (site.jurisdiction, site.zone)))})",
                [Masks(policy.allow.place(site), policy.deny.place(site)) for policy in every],
            )
            for site in _places(every, sites)
        ),
        times=_groups(
            (str(at), [Masks(mask, mask) for mask in (clock.mask(at) for clock in clocks)])
            for at in _times(clocks, since)
        ),
        purposes=axis(("", OTHER, *_named(every, lambda rule: rule.purposes)), lambda side: side.purpose),
        projects=axis((OTHER, *_named(every, lambda rule: rule.projects)), lambda side: side.project),
        tags=(*_named(every, lambda rule: rule.tags), OTHER),
    )


def _times(clocks: Sequence[Clock], since: int) -> Iterable[int]:
    """Times that stand for all; the last one is that nobody knows the time."""
    if not any(True for clock in clocks for _ in clock.spans):
        yield since
        return
    yield from instants(clocks, since)
    yield 0


def _groups(values: Iterable[tuple[str, list[Masks]]]) -> tuple[Group, ...]:
    found: dict[tuple[Masks, ...], list[str]] = {}
    for count, (value, masks) in enumerate(values):
        if count >= LARGEST_AXIS:
            raise TooLarge
        found.setdefault(tuple(masks), []).append(value)
    return tuple(Group(tuple(names), masks) for masks, names in found.items())


def _named(policies: Iterable[CompiledPolicy], values: Callable[[Rule], tuple[str, ...]]) -> list[str]:
    return sorted({v for policy in policies for rule in policy.document.rules for v in values(rule)} - {ALL})


def _classes(old: CompiledPolicy | None, new: CompiledPolicy) -> Iterable[tuple[str, list[Masks]]]:
    """Each class and, where it is not the same in both policies, the one that is meant by naming none (""), and the one
    to which a finding raises."""
    for name in CLASSES:
        yield name, [_class(policy, name) for policy in (*layers(new), *layers(old))]
    if old is not None and old.strictest != new.strictest:
        yield "", _moved(old, new, old.strictest, new.strictest)
    for was, now in _raises(old, new):
        yield f"{now} instead of {was} for what is found", _moved(old, new, was, now)


def _raises(old: CompiledPolicy | None, new: CompiledPolicy) -> Iterable[tuple[str, str]]:
    """To which class a finding raises with the old and with the new policy, where that is not the same.

    Where only the new one looks for anything, findings allow nothing: what it raises must be allowed as declared too.
    """
    if old is None or old.classifier is None or new.classifier is None:
        return []
    declared = [(old.strictest, new.strictest), *((name, name) for name in CLASSES)]
    least = (old.classifier.at_least, new.classifier.at_least)
    raised = (tuple(max(pair, key=("", *CLASSES).index) for pair in zip(one, least, strict=True)) for one in declared)
    return dict.fromkeys((was, now) for was, now in raised if was != now)


def _moved(old: CompiledPolicy | None, new: CompiledPolicy, was: str, now: str) -> list[Masks]:
    """Requests that were decided about as of one class, and would be as of another."""
    return [_class(policy, now) for policy in layers(new)] + [_class(policy, was) for policy in layers(old)]


def _class(policy: CompiledPolicy, name: str) -> Masks:
    return Masks(policy.allow.data_class.of(name), policy.deny.data_class.of(name))


def _places(policies: Sequence[CompiledPolicy], sites: Sequence[SiteFact]) -> Iterable[SiteFact]:
    """The sites there are, and those that there could be."""
    yield from sites
    codes = [*_named(policies, lambda rule: rule.jurisdictions), OTHER]
    named = _named(policies, lambda rule: rule.zones)
    zones = ["", *named, OTHER] if named else [""]  # what no rule asks for makes no difference
    known = {site.slug for site in sites}
    for slug in (OTHER, *(slug for slug in _named(policies, lambda rule: rule.sites) if slug not in known)):
        yield from (SiteFact(NOBODY, slug, code, zone) for code in codes for zone in zones)
