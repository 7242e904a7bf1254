"""What is kept of prompts and answers, where the residency policy lets anything be kept (docs/decisions/0019).

The log holds commitments only. Their openings, and the content itself where the level is `sealed`, lie in a table
beside it under keys that can be destroyed: one record's, or a tenant's whole month.
"""
