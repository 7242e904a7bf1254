"""One machine: set-up, embedded servers, demo. Only the standard library until the environments exist."""
