"""The verbs of residency: sites, policies, the decision, tickets and receipts."""

from kasbah.residency.compiled import KEPT, CompiledPolicy, compile_policy
from kasbah.residency.decision import DECLARED, RAISED, Decision, Exclusion, Question, decide, decide_raised
from kasbah.residency.document import PolicyInvalid, Problem, schema, validate
from kasbah.residency.places import SiteFact
from kasbah.residency.services import signing_keys, site_keys, tickets
from kasbah.residency.services.activation import activate_due
from kasbah.residency.services.approval import approve_policy, reject_policy, request_activation, withdraw_policy
from kasbah.residency.services.candidates import candidate
from kasbah.residency.services.explaining import Explanation, explain
from kasbah.residency.services.health import OK, Look, note_health
from kasbah.residency.services.loaders import SiteRecord, baseline_in_force, load_policy, load_sites, policy_in_force
from kasbah.residency.services.policies import check_policy, create_policy, roll_back
from kasbah.residency.services.signing_keys import ControlKeys, control_keys, load_control_keys
from kasbah.residency.services.sites import (
    broker_url,
    cordon_site,
    create_site,
    drain_site,
    resume_site,
    retire_site,
    store_url,
    update_site,
)
from kasbah.residency.text import validate_text

__all__ = [
    "DECLARED",
    "KEPT",
    "OK",
    "RAISED",
    "CompiledPolicy",
    "ControlKeys",
    "Decision",
    "Exclusion",
    "Explanation",
    "Look",
    "PolicyInvalid",
    "Problem",
    "Question",
    "SiteFact",
    "SiteRecord",
    "activate_due",
    "approve_policy",
    "baseline_in_force",
    "broker_url",
    "candidate",
    "check_policy",
    "compile_policy",
    "control_keys",
    "cordon_site",
    "create_policy",
    "create_site",
    "decide",
    "decide_raised",
    "drain_site",
    "explain",
    "load_control_keys",
    "load_policy",
    "load_sites",
    "note_health",
    "policy_in_force",
    "reject_policy",
    "request_activation",
    "resume_site",
    "retire_site",
    "roll_back",
    "schema",
    "signing_keys",
    "site_keys",
    "store_url",
    "tickets",
    "update_site",
    "validate",
    "validate_text",
    "withdraw_policy",
]
