"""The JSON bodies that clients send, typed and capped: what is not named here never reaches an engine."""
