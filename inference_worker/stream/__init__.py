"""One job's way through the engine and back: the answer parsed, counted, sealed and written to the store."""
