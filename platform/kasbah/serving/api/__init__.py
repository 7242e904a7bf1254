"""The management API of deployments, workers, enrolment tokens, jobs and receipts."""
