"""The verbs of this app: deployments, workers and jobs; the only way to change their state."""

from kasbah.serving.dispatch.dispatcher import Dispatcher
from kasbah.serving.dispatch.replay import replay
from kasbah.serving.dispatch.running import Running
from kasbah.serving.loaders import load_deployments, load_workers
from kasbah.serving.records import DeploymentRecord, JobRequest, NewJob, Outcome, SettledJob, WorkerRecord
from kasbah.serving.rows import insert_jobs, settle_jobs
from kasbah.serving.services.background import submit_background
from kasbah.serving.services.deployments import create_deployment, grant, revoke_grant, update_deployment
from kasbah.serving.services.impact import Impact, site_impact, worker_impact
from kasbah.serving.services.keys import ask_rotation
from kasbah.serving.services.matrix import Matrix, tenant_matrix
from kasbah.serving.services.receipts import find_receipt
from kasbah.serving.services.workers import (
    IssuedToken,
    approve_worker,
    cordon_worker,
    create_enrolment_token,
    drain_worker,
    reject_worker,
    resume_worker,
    revoke_worker,
)
from kasbah.serving.settlement import on_settled
from kasbah.serving.timings import Timings, timings

__all__ = [
    "DeploymentRecord",
    "Dispatcher",
    "Impact",
    "IssuedToken",
    "JobRequest",
    "Matrix",
    "NewJob",
    "Outcome",
    "Running",
    "SettledJob",
    "Timings",
    "WorkerRecord",
    "approve_worker",
    "ask_rotation",
    "cordon_worker",
    "create_deployment",
    "create_enrolment_token",
    "drain_worker",
    "find_receipt",
    "grant",
    "insert_jobs",
    "load_deployments",
    "load_workers",
    "on_settled",
    "reject_worker",
    "replay",
    "resume_worker",
    "revoke_grant",
    "revoke_worker",
    "settle_jobs",
    "site_impact",
    "submit_background",
    "tenant_matrix",
    "timings",
    "update_deployment",
    "worker_impact",
]
