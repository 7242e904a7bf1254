"""The verbs of residency."""

from kasbah.residency.decision import CompiledPolicy, Decision, Exclusion, Question, SiteFact, compile_policy, decide
from kasbah.residency.document import PolicyInvalid, Problem, schema, validate
from kasbah.residency.services import tickets

__all__ = [
    "CompiledPolicy",
    "Decision",
    "Exclusion",
    "PolicyInvalid",
    "Problem",
    "Question",
    "SiteFact",
    "compile_policy",
    "decide",
    "schema",
    "tickets",
    "validate",
]
