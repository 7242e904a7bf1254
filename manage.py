#!/usr/bin/env python
"""Django's command line: `python manage.py help` lists Kasbah's commands."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # So that it works from a checkout too; `platform` itself is a source root, never a package (decision 0001).
    sys.path[:0] = [str(Path(__file__).parent / "platform"), str(Path(__file__).parent)]
    os.umask(0o077)  # exports, tiles, spools and what else a command writes are for the account that runs it
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")
    from django.core.management import execute_from_command_line

    from inference_worker.contract.settings import check_arguments, exit_on_wrong_setting
    from kasbah.config.egress import guard

    with exit_on_wrong_setting():
        check_arguments(sys.argv)
        guard(sys.argv[1] if len(sys.argv) > 1 else "help")
        execute_from_command_line(sys.argv)
