"""Looks for personal data in the text of requests: with check digits and numbering plans, without a model."""
