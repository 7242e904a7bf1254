"""The verbs of residency: sites, policies, the decision, tickets and receipts."""

from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.decision import Decision, Exclusion, Question, SiteFact, decide
from kasbah.residency.document import PolicyInvalid, Problem, schema, validate
from kasbah.residency.services import tickets
from kasbah.residency.services.candidates import candidate
from kasbah.residency.services.health import OK, Look, note_health
from kasbah.residency.services.loaders import SiteRecord, load_policy, load_sites
from kasbah.residency.services.policies import Explanation, activate_policy, create_policy, explain
from kasbah.residency.services.sites import (
    SiteKeys,
    broker_url,
    cordon_site,
    create_site,
    drain_site,
    resume_site,
    site_keys,
    store_url,
    update_site,
)

__all__ = [
    "OK",
    "CompiledPolicy",
    "Decision",
    "Exclusion",
    "Explanation",
    "Look",
    "PolicyInvalid",
    "Problem",
    "Question",
    "SiteFact",
    "SiteKeys",
    "SiteRecord",
    "activate_policy",
    "broker_url",
    "candidate",
    "compile_policy",
    "cordon_site",
    "create_policy",
    "create_site",
    "decide",
    "drain_site",
    "explain",
    "load_policy",
    "load_sites",
    "note_health",
    "resume_site",
    "schema",
    "site_keys",
    "store_url",
    "tickets",
    "update_site",
    "validate",
]
