"""What the report counts and lists, out of the events alone."""

from __future__ import annotations

from functools import lru_cache

from kasbah.audit.export.verifier.failure import Facts

REPORT_FORMAT = "kasbah-audit-report@v1"
LISTED = 500  # events that a section lists, the earliest; all are counted
WORDS = 100  # characters of a detail that is listed
SECTIONS = ("policies", "approvals", "erasures", "holds", "prunings", "exports", "reads", "keys", "interventions")
APPROVALS = ("approved", "rejected", "withdrawn", "release_requested", "released")
READS = ("audit.read", "content.read", "policy.simulated")


@lru_cache(maxsize=256)
def sections_of(kind: str) -> tuple[str, ...]:
    """In which sections of the report an event of this type is listed."""
    subject, _, verb = kind.partition(".")
    policy = subject in ("policy", "baseline") and verb != "simulated"
    belongs = {
        "policies": policy,
        "approvals": verb.endswith(APPROVALS) or (verb.endswith("requested") and policy),
        "erasures": kind.startswith("content.eras"),
        "holds": subject == "legal_hold",
        "prunings": verb.startswith("prun") or subject == "pruning_policy",
        "exports": kind == "audit.exported",
        "reads": kind in READS,
        "keys": subject.endswith("key") or verb.startswith("key_"),
        "interventions": kind
        in ("log.trusted", "log.moved", "egress.refused", "inference.refused", "worker.enrolment_refused"),
    }
    return tuple(name for name in SECTIONS if belongs[name])


class Tally:
    """Counts of events; of two that follow each other the second can be added to the first."""

    def __init__(self) -> None:
        self.events = 0
        self.first = self.last = ""  # times
        self.types: dict[str, dict[str, int]] = {}  # type -> outcome -> number
        self.denials: dict[str, dict[str, int]] = {}  # reason -> rule -> number
        self.models: dict[str, dict[str, int]] = {}  # name -> what is counted
        self.sites: dict[str, dict[str, int]] = {}
        self.classes: dict[str, dict[str, int]] = {}
        self.lists: dict[str, list[Facts]] = {name: [] for name in SECTIONS}
        self.listed: dict[str, int] = dict.fromkeys(SECTIONS, 0)

    def add(self, number: int, event: Facts) -> None:
        """One event more."""
        kind = event["type"]
        self.events += 1
        self.first = self.first or event["time"]
        self.last = event["time"]
        _count(self.types, kind, {event["outcome"]: 1})
        if kind.startswith("inference."):
            self._request(kind[len("inference.") :], event)
        for name in sections_of(kind):
            self.listed[name] += 1
            if len(self.lists[name]) < LISTED:
                self.lists[name].append(_entry(number, event))

    def _request(self, verb: str, event: Facts) -> None:
        model = event.get("model", {}).get("name", "")
        data_class = event.get("details", {}).get("data_class", "")
        if verb == "denied":
            _count(self.denials, event.get("reason", ""), {event.get("policy", {}).get("rule", ""): 1})
        if verb in ("intent", "denied"):
            counts = {"asked" if verb == "intent" else "denied": 1}
            _count(self.models, model, counts)
            _count(self.classes, data_class, counts)
        if verb == "outcome":
            tokens = event.get("tokens", {})
            counts = {
                "ended": 1,
                "succeeded": int(event["outcome"] == "success"),
                "prompt_tokens": tokens.get("prompt", 0),
                "completion_tokens": tokens.get("completion", 0),
                "estimated": int(not tokens.get("exact", True)),
            }
            _count(self.models, model, counts)
            _count(self.sites, event.get("site", ""), counts)

    def merge(self, later: Tally) -> None:
        """Add what was counted of the events that follow."""
        self.events += later.events
        self.first = self.first or later.first
        self.last = later.last or self.last
        for mine, other in ((self.types, later.types), (self.denials, later.denials), (self.models, later.models),
                            (self.sites, later.sites), (self.classes, later.classes)):  # fmt: skip
            for name, counts in other.items():
                _count(mine, name, counts)
        for name in SECTIONS:
            self.listed[name] += later.listed[name]
            self.lists[name] += later.lists[name][: LISTED - len(self.lists[name])]

    def report(self, log: Facts) -> Facts:
        """The facts of the report; `log` is what is known of the log as a whole (see `log_facts`)."""
        return {
            "format": REPORT_FORMAT,
            "log": log,
            "events": self.events,
            "period": {"first": self.first, "last": self.last},
            "types": self.types,
            "denials": self.denials,
            "models": self.models,
            "sites": self.sites,
            "classes": self.classes,
            "sections": {name: {"events": self.listed[name], "listed": self.lists[name]} for name in SECTIONS},
        }


def log_facts(origin: str, selection: Facts, size: int, root: str, signers: list[str]) -> Facts:
    """What the report says of the log. `signers`: names of all signatures on the checkpoint; the log's own is one."""
    return {
        "origin": origin,
        "selection": selection,
        "size": size,
        "root": root,
        "witnesses": sorted({name for name in signers if name != origin}),
    }


def _count(table: dict[str, dict[str, int]], name: str, counts: dict[str, int]) -> None:
    row = table.get(name)
    if row is None:
        row = table[name] = {}
    for what, number in counts.items():
        row[what] = row.get(what, 0) + number


def _entry(number: int, event: Facts) -> Facts:
    actor, resource = event["actor"], event.get("resource", {})
    found = {
        "index": number,
        "time": event["time"],
        "type": event["type"],
        "outcome": event["outcome"],
        "actor": f"{actor.get('kind', '')}:{actor.get('id', '')}",
    }
    if resource:
        found["resource"] = f"{resource.get('type', '')}:{resource.get('id', '')}"
    if reason := event.get("reason"):
        found["reason"] = reason
    details = {
        name: value
        for name, value in event.get("details", {}).items()
        if isinstance(value, (int, str)) and len(str(value)) <= WORDS
    }
    return found | {"details": details} if details else found
