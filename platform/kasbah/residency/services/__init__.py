"""The verbs of residency: sites, policies, the decision, tickets and receipts."""

from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.decision import Decision, Exclusion, Question, SiteFact, decide
from kasbah.residency.document import PolicyInvalid, Problem, schema, validate
from kasbah.residency.services import tickets
from kasbah.residency.services.loaders import SiteRecord, load_policy, load_sites
from kasbah.residency.services.policies import Explanation, activate_policy, create_policy, explain
from kasbah.residency.services.sites import SiteKeys, broker_url, create_site, site_keys, update_site

__all__ = [
    "CompiledPolicy",
    "Decision",
    "Exclusion",
    "Explanation",
    "PolicyInvalid",
    "Problem",
    "Question",
    "SiteFact",
    "SiteKeys",
    "SiteRecord",
    "activate_policy",
    "broker_url",
    "compile_policy",
    "create_policy",
    "create_site",
    "decide",
    "explain",
    "load_policy",
    "load_sites",
    "schema",
    "site_keys",
    "tickets",
    "update_site",
    "validate",
]
