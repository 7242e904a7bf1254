"""The worker decides again: whether a job may run here, by this engine, now, before its payload is opened.

The broker is not trusted. Everything that counts is in the ticket, which the control plane signed; what the message
says beside it must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from inference_worker.contract import sealing
from inference_worker.contract.messages import JobMessage, Payload, RefusalCode, Ticket, checked, now, sha256_hex
from inference_worker.contract.signing import BadToken, Purpose, unb64
from inference_worker.identity import Identity
from inference_worker.tasks.seen import Seen


class Refused(Exception):
    """The job may not run; `code` says why, `job` and `attempt` are what the message claimed."""

    def __init__(self, code: RefusalCode, job: str = "", attempt: int = 0) -> None:
        super().__init__(code.value)
        self.code, self.job, self.attempt = code, job, attempt


class NotReady(Exception):
    """The engine went away after the message was taken, or this worker does not know yet which keys count.

    Nothing is wrong with the job: it goes back to its queue.
    """


class Admitted(msgspec.Struct, frozen=True):
    """A job that may run, with its payload opened."""

    ticket: Ticket
    message: JobMessage
    payload: Payload


class Gate:
    """Checks messages, on the event loop.

    `loaded` answers the digest that a deployment's engine has loaded, "" while it is not ready, None when the
    deployment is not this worker's. `informed` answers whether the assignment was read within seconds: one that was
    cut off may have missed new keys, and refuses nothing for a key that it does not know before it has looked.
    """

    def __init__(
        self, identity: Identity, loaded: Callable[[str], str | None], informed: Callable[[], bool] = lambda: True
    ) -> None:
        self._identity = identity
        self._loaded = loaded
        self._informed = informed
        self._seen = Seen()

    def admit(self, raw: Any) -> Admitted:
        """Check a message and open its payload. Raises Refused, NotReady."""
        try:
            message = msgspec.convert(raw, JobMessage)
        except msgspec.ValidationError as error:
            raise Refused(RefusalCode.BAD_MESSAGE) from error
        try:
            return self._admit(message)
        except Refused as refused:
            raise Refused(refused.code, message.job, message.attempt) from refused

    def end(self, admitted: Admitted) -> None:
        """It does not run any more."""
        self._seen.end(admitted.ticket.job, admitted.ticket.attempt)

    def _admit(self, message: JobMessage) -> Admitted:
        ticket = self._ticket(message)
        sealed = self._payload(message, ticket)
        # Last of the checks, so that a damaged copy that came first does not use the ticket up.
        self._seen.add(ticket.job, ticket.attempt, ticket.expires, now())
        try:
            opened = sealing.open_payload(
                sealed, job=ticket.job, site=self._identity.site, private=self._identity.site_keys
            )
            return Admitted(ticket, message, msgspec.msgpack.decode(opened, type=Payload))
        except (sealing.CannotOpen, msgspec.DecodeError) as error:
            self._seen.end(ticket.job, ticket.attempt)
            if not self._informed():
                self._seen.forget(ticket.job, ticket.attempt, ticket.expires)
                raise NotReady from error
            raise Refused(RefusalCode.CANNOT_OPEN) from error

    def _ticket(self, message: JobMessage) -> Ticket:
        try:
            ticket = checked(self._identity.control, Purpose.TICKET, message.ticket, Ticket)
        except BadToken as error:
            if message.ticket.partition(".")[0] not in self._identity.control.key_ids and not self._informed():
                raise NotReady from error
            raise Refused(RefusalCode.BAD_TICKET) from error
        if (ticket.version, ticket.job, ticket.attempt) != (1, message.job, message.attempt):
            raise Refused(RefusalCode.BAD_TICKET)
        if self._seen.has(ticket.job, ticket.attempt, ticket.expires):
            raise Refused(RefusalCode.REPLAYED)
        if ticket.expires <= now():
            raise Refused(RefusalCode.EXPIRED)
        if self._identity.site not in ticket.sites:
            raise Refused(RefusalCode.WRONG_SITE)
        loaded = self._loaded(ticket.deployment)
        if loaded is None:
            raise Refused(RefusalCode.WRONG_DEPLOYMENT)
        if not loaded:
            raise NotReady
        if loaded != ticket.model_digest:
            raise Refused(RefusalCode.WRONG_MODEL)
        return ticket

    def _payload(self, message: JobMessage, ticket: Ticket) -> bytes:
        try:
            sealed = unb64(message.payload)
        except BadToken as error:
            raise Refused(RefusalCode.PAYLOAD_ALTERED) from error
        if sha256_hex(sealed) != ticket.payload_sha256:
            raise Refused(RefusalCode.PAYLOAD_ALTERED)
        return sealed
