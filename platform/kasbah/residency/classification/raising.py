"""What follows from what was found: a stricter class and more tags, never a laxer class or fewer tags."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.decision import Question
from kasbah.residency.document import CLASSES


def raised(question: Question, policy: CompiledPolicy, found: Mapping[str, int]) -> Question:
    """The question that is decided instead, when the policy's classifier found anything."""
    classifier = policy.classifier
    if classifier is None or not found:
        return question
    data_class = question.data_class or policy.strictest
    if classifier.at_least and data_class in CLASSES:  # a class that nobody knows is allowed nowhere
        data_class = max(data_class, classifier.at_least, key=CLASSES.index)
    tags = tuple(dict.fromkeys((*question.tags, *classifier.tags)))
    return msgspec.structs.replace(question, data_class=data_class, tags=tags)


def summary(found: Mapping[str, int]) -> str:
    """Kinds and counts in one line, such as `email 2, iban 1`."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
