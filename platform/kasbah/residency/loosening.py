"""What a change of a policy loosens: exactly, over every question that the old and the new policy can tell apart.

Tags need no such enumeration, although any set of them may be asked about. What a policy allows, it also allows with
fewer tags. So if the new one allows a set that the old one denies, then it also allows, by the same rule, the largest
set that this rule names and no rule that denies hits; and the old one denies that too, being larger. Only the largest
set of each rule that allows needs to be tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kasbah.residency.compiled import KEPT, CompiledPolicy
from kasbah.residency.document import ALL, CLASSES, Classifier
from kasbah.residency.instants import TooLarge
from kasbah.residency.places import SiteFact
from kasbah.residency.universe import OTHER, Group, Masks, Universe, layers, universe

SHOWN = 20
BUDGET = 500_000  # steps: a second or two
Tags = frozenset[str]
State = tuple[Masks, ...]


@dataclass(frozen=True, slots=True)
class Loosened:
    """Something that the new policy lets more of through, or less of be looked at, than the old one.

    `what` is "cell" (a kind of request would newly be allowed), "content", "retention", "strictest", "approval",
    "classifier", or "too_large": too many kinds to look at, so nobody can say that nothing is loosened. `example` of a
    cell is one such request: `data_class`, `tags`, `model`, `site`, `jurisdiction`, `zone`, `purpose`, `project` and
    `at` (seconds since the epoch, 0 not known), where OTHER is any value that no rule names.
    """

    what: str
    message: str
    example: dict[str, Any] = field(default_factory=dict)


def compare(
    old: CompiledPolicy | None, new: CompiledPolicy, sites: Sequence[SiteFact], since: int = 0
) -> tuple[Loosened, ...]:
    """What `new` loosens of `old` (None: nothing was allowed), at most 20; empty if and only if it loosens nothing.

    `sites` are all there are; sites that could be made later are looked at too. Only times from `since` on count,
    seconds since the epoch, within this century.
    """
    found = list(_settings(old, new))
    try:
        for cell in Search(old, new, universe(old, new, sites, since)).cells():
            found.append(cell)
            if len(found) >= SHOWN:
                break
    except TooLarge:
        message = "There are too many kinds of requests to look at each, so something may be loosened."
        found = [*found[: SHOWN - 1], Loosened("too_large", message)]
    return tuple(found[:SHOWN])


def _settings(old: CompiledPolicy | None, new: CompiledPolicy) -> Iterator[Loosened]:
    for name in CLASSES:
        yield from _kept(old, new, name)
    if old is None:
        return
    if CLASSES.index(new.strictest) < CLASSES.index(old.strictest):
        message = f"A request that names no class would be taken to be {new.strictest} instead of {old.strictest}."
        yield Loosened("strictest", message, {"from": old.strictest, "to": new.strictest})
    if old.approval == "always" and new.approval != "always":
        message = "A change that loosens nothing would no longer need a second person."
        yield Loosened("approval", message, {"from": old.approval, "to": new.approval})
    if old.classifier is not None:
        yield from _weakened(old.classifier, new.classifier)


def _kept(old: CompiledPolicy | None, new: CompiledPolicy, name: str) -> Iterator[Loosened]:
    """Content of a class that would newly be kept, or longer, or could be removed sooner."""
    before, after = old.content(name) if old is not None else KEPT[0], new.content(name)
    if KEPT.index(after) > KEPT.index(before):
        message = f"Of content of class {name} would be kept: {after} instead of {before}."
        yield Loosened("content", message, {"data_class": name, "from": before, "to": after})
    if old is None:
        return
    was, now = old.retention(name), new.retention(name)
    if now.ceiling_days > was.ceiling_days:
        message = f"Content of class {name} could be kept for {now.ceiling_days} days instead of {was.ceiling_days}."
        yield Loosened("retention", message, {"data_class": name, "from": was.ceiling_days, "to": now.ceiling_days})
    if now.floor_days < was.floor_days:
        message = f"Content of class {name} could be removed after {now.floor_days} days instead of {was.floor_days}."
        yield Loosened("retention", message, {"data_class": name, "from": was.floor_days, "to": now.floor_days})


def _weakened(old: Classifier, new: Classifier | None) -> Iterator[Loosened]:
    lost = [kind for kind in old.detect if new is None or kind not in new.detect]
    if lost:
        yield Loosened("classifier", f"No longer looked for: {', '.join(lost)}.", {"detect": lost})
    if new is None:
        return
    if tags := [tag for tag in old.tags if tag not in new.tags]:
        yield Loosened("classifier", f"What is found would no longer be tagged {', '.join(tags)}.", {"tags": tags})
    ranks = ("", *CLASSES)
    if ranks.index(new.at_least) < ranks.index(old.at_least):
        message = f"What is found would no longer be at least {old.at_least}."
        yield Loosened("classifier", message, {"from": old.at_least, "to": new.at_least})


class Search:
    """Looks for kinds of requests that the new policy allows and the old one does not."""

    def __init__(self, old: CompiledPolicy | None, new: CompiledPolicy, every: Universe, budget: int = BUDGET) -> None:
        self._new, self._old, self._every = layers(new), layers(old), every
        self._left = budget
        self._safe: set[tuple[int, State]] = set()
        # The tag sets that rules which allow name, each with its rules.
        self._named = [_tag_sets(policy, every.tags) for policy in self._new]
        sizes = [len(tags) + 1 for named in self._named for tags in named]
        self._leaf = 1 + (sum(sizes) + len(every.tags)) // 10  # steps that one leaf counts

    def cells(self) -> Iterator[Loosened]:
        """One for each class, model and site of which something would newly be allowed. Raises TooLarge."""
        every, start = self._every, tuple(Masks(-1, -1) for _ in (*self._new, *self._old))
        for data_class in every.data_classes:
            of_class = self._narrow(start, data_class)
            for model in every.models if of_class else ():
                of_model = self._narrow(of_class, model)
                for place in every.places if of_model else ():
                    if (state := self._narrow(of_model, place)) and (found := self._first(state, 0, ())):
                        yield self._loosened((data_class, model, place, *found[0]), found[1], found[2])

    def _narrow(self, state: State, group: Group) -> State:
        """The rules that are also content with this group; empty when the new policy then allows nothing."""
        self._spend(1)
        narrowed = tuple(
            Masks(had.allow & has.allow, had.deny & has.deny) for had, has in zip(state, group.masks, strict=True)
        )
        return narrowed if all(mask.allow for mask in narrowed[: len(self._new)]) else ()

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooLarge

    def _first(self, state: State, depth: int, chosen: tuple[Group, ...]) -> tuple[tuple[Group, ...], Tags, str] | None:
        """The first time, purpose and project with which something is newly allowed, the tags, and the rule."""
        if (depth, state) in self._safe:
            return None
        found = None
        if depth == 3:
            if (tags := self._newly(state)) is not None:
                return chosen, tags, self._rule(state, tags)
        else:
            axis = (self._every.times, self._every.purposes, self._every.projects)[depth]
            for group in axis:
                narrowed = self._narrow(state, group)
                if narrowed and (found := self._first(narrowed, depth + 1, (*chosen, group))):
                    return found
        self._safe.add((depth, state))
        return None

    def _newly(self, state: State) -> Tags | None:
        """The fewest tags with which the new policy allows and the old one does not; None if there are none."""
        self._spend(self._leaf)
        largest: set[Tags] = {frozenset(self._every.tags)}
        for policy, named, masks in zip(self._new, self._named, state, strict=False):
            if policy.deny.untagged & masks.deny:
                return None
            hit = {tag for tag in self._every.tags if policy.deny.tag.of(tag) & masks.deny}
            own = {tags - hit for tags, rules in named.items() if rules & masks.allow}
            self._spend(len(largest) * len(own))
            largest = {one & other for one in largest for other in own}
        for tags in sorted(largest, key=lambda tags: (len(tags), sorted(tags))):
            if not self._allowed_before(state, tags):
                return self._fewest(state, tags)
        return None

    def _allowed_before(self, state: State, tags: Tags) -> bool:
        before = zip(self._old, state[len(self._new) :], strict=True)
        return bool(self._old) and all(
            policy.allow.tagged(tuple(tags)) & masks.allow and not policy.deny.tagged(tuple(tags)) & masks.deny
            for policy, masks in before
        )

    def _fewest(self, state: State, tags: Tags) -> Tags:
        """The new policy allows fewer tags too; the plainest example has no more than it needs."""
        for tag in (OTHER, *sorted(tags)):
            if tag in tags and not self._allowed_before(state, tags - {tag}):
                tags -= {tag}
        return tags

    def _rule(self, state: State, tags: Tags) -> str:
        allowing = self._new[0].allow.tagged(tuple(tags)) & state[0].allow
        return self._new[0].rule_ids[(allowing & -allowing).bit_length() - 1]

    def _loosened(self, chosen: tuple[Group, ...], tags: Tags, rule: str) -> Loosened:
        data_class, model, place, at, purpose, project = (group.values for group in chosen)
        slug, _, rest = place[0].removesuffix(")").partition(" (")
        code, _, zone = rest.partition(", ")
        words = [
            "requests that name no class" if data_class[0] == "" else f"class {_list(data_class)}",
            f"with tags {', '.join(sorted(tags))}" if tags else "",
            f"for model {_list(model)} at site {_list(place)}",
            _unless_any("purpose", purpose, self._every.purposes),
            _unless_any("project", project, self._every.projects),
            _when(int(at[0])) if len(self._every.times) > 1 else "",
        ]
        example = {
            "data_class": data_class[0],
            "tags": sorted(tags),
            "model": model[0],
            "site": slug,
            "jurisdiction": code,
            "zone": zone,
            "purpose": purpose[0],
            "project": project[0],
            "at": int(at[0]),
        }
        return Loosened("cell", f"{' '.join(filter(None, words))} would newly be allowed by rule {rule}", example)


def _tag_sets(policy: CompiledPolicy, tags: Sequence[str]) -> dict[Tags, int]:
    found: dict[Tags, int] = {}
    for bit, rule in enumerate(policy.document.rules):
        if rule.effect == "allow":
            named = frozenset(tags if ALL in rule.tags else rule.tags)
            found[named] = found.get(named, 0) | 1 << bit
    return found


def _list(values: Sequence[str]) -> str:
    """A few of the values, in words; the rest counted."""
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return ", ".join(values[:3]) + more


def _unless_any(what: str, values: Sequence[str], groups: Sequence[Group]) -> str:
    """The condition in words, but for one that makes no difference."""
    if len(groups) == 1:
        return ""
    return f"without a {what}" if values[0] == "" else f"for {what} {_list(values)}"


def _when(at: int) -> str:
    return f"at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC" if at else "at a time that is not known"
