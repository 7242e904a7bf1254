"""Writing to the log: `record` beside an action, `insert` for many at once, `receipt` for the one who asked."""

from kasbah.audit.services.events import (
    LIMIT,
    ActorRef,
    Event,
    EventTooLarge,
    EventType,
    Model,
    Outcome,
    Policy,
    Resource,
    Tokens,
    rfc3339,
)
from kasbah.audit.services.intake import NotInTransaction, insert, record, record_apart
from kasbah.audit.services.reading import answers, intents, pruned, statement_timeout, stream
from kasbah.audit.services.receipts import receipt

__all__ = [
    "LIMIT",
    "ActorRef",
    "Event",
    "EventTooLarge",
    "EventType",
    "Model",
    "NotInTransaction",
    "Outcome",
    "Policy",
    "Resource",
    "Tokens",
    "answers",
    "insert",
    "intents",
    "pruned",
    "receipt",
    "record",
    "record_apart",
    "rfc3339",
    "statement_timeout",
    "stream",
]
