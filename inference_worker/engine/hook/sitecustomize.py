"""Python imports this by its name before anything else, in every interpreter that the engine starts.

It installs the engine's guard, or ends the process: an engine without one must not run.
"""

import os
import runpy
import sys
from pathlib import Path

try:
    runpy.run_path(str(Path(__file__).parents[1] / "launch.py"))["guard"]()
except BaseException as error:  # noqa: BLE001 - `site` would print it and go on
    print(f"the egress guard could not be installed: {error!r}", file=sys.stderr, flush=True)
    os._exit(70)  # EX_SOFTWARE
