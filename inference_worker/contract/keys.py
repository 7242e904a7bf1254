"""Names of the keys in a site's broker and stream store. Times to live in seconds."""

from __future__ import annotations

JOB_TTL = 3600
FRAMES_TTL = 600
REPLIES_TTL = 30
WORKER_TTL = 5
REPORTS = "ksb:reports"
REPORTS_MAXLEN = 10_000
TASK = "kasbah.infer"
QUORUM = {"x-queue-type": "quorum"}  # arguments of a queue in RabbitMQ; who declares it otherwise is refused

# Fields of an entry of REPORTS; an entry has exactly one of them.
REPORT = "report"  # token of a Report (Purpose.REPORT)
REFUSAL = "refusal"  # token of a Refusal (Purpose.REPORT)
ENROL = "enrol"  # enrolment.seal_request
KEY_CHANGE = "key_change"  # two tokens of one KeyChange (Purpose.IDENTITY): by the old key, a space, by the new one


def job(job_id: str) -> str:
    """Hash: attempt, worker, lease (ms since the epoch by the store's clock), cancelled, done."""
    return f"ksb:job:{job_id}"


def frames(job_id: str, attempt: int) -> str:
    """Stream of the sealed frames of one attempt; kept for resumption."""
    return f"ksb:frames:{job_id}:{attempt}"


def replies(owner: str) -> str:
    """Stream that one web process reads; exists only while that process lives."""
    return f"ksb:replies:{owner}"


def worker(worker_id: str) -> str:
    """Signed liveness report of a worker; gone when the worker is."""
    return f"ksb:worker:{worker_id}"


def enrolment_answer(nonce: str) -> str:
    """Sealed answer to one enrolment request."""
    return f"ksb:enrol:{nonce}"


def assignment(worker_id: str) -> str:
    """Signed desired state of one worker, written by the control plane."""
    return f"ksb:assign:{worker_id}"


def queue(deployment_id: str) -> str:
    """Celery queue of one deployment at this site."""
    return f"dep.{deployment_id}"


def offered(deployment_id: str) -> str:
    """Counter of what was ever put into that queue: with the queue's length it tells whether a message was taken.

    It lies in the store, also where the queue lies in a broker beside it.
    """
    return f"ksb:offered:{deployment_id}"
