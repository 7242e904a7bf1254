"""`python -m kasbah.audit.export.verifier`: print the program that exports carry as verify.py."""

from __future__ import annotations

import sys

from kasbah.audit.export.verifier.joined import program

if __name__ == "__main__":
    sys.stdout.write(program())
