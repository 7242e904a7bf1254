"""Models and their versions: what they are, where they come from, which bytes they consist of."""
