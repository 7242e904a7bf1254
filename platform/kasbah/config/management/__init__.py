"""Commands that span apps."""
