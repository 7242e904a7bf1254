"""The ledger of egress: which process wanted a destination that is not on its list, how often and when."""
