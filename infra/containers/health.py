"""Health checks of the containers of ours: `python health.py http URL` and `python health.py worker STATE_DIR`.

Exit status 0 when healthy; otherwise 1, with the reason on standard error, which `docker inspect` keeps.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT = 3.0  # seconds


class Unhealthy(Exception):
    """The message says what is wrong."""


def http(url: str) -> None:
    """Whether GET `url` answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - the URL is the compose file's
            status = answer.status
    except urllib.error.HTTPError as error:
        raise Unhealthy(f"{url} answered {error.code}: {error.read(300).decode(errors='replace')}") from error
    except OSError as error:
        raise Unhealthy(f"{url} cannot be reached: {error}") from error
    if status != 200:
        raise Unhealthy(f"{url} answered {status}")


def worker(state_dir: str) -> None:
    """Whether the worker is enrolled and its liveness report, which lives for seconds only, is in the site's store."""
    from redis import Redis
    from redis.exceptions import RedisError

    from inference_worker.config import secret
    from inference_worker.contract import keys

    try:
        identity = json.loads(Path(state_dir, "identity.json").read_text(encoding="utf-8"))["worker"]
    except (OSError, ValueError, KeyError) as error:
        raise Unhealthy(f"not enrolled: {error}") from error
    try:
        url = secret("STORE_URL") or secret("BROKER_URL")
        with Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as store:
            alive = store.exists(keys.worker(identity))
    except (RedisError, OSError, ValueError) as error:
        raise Unhealthy(f"the site's store cannot be asked: {type(error).__name__}") from error
    if not alive:
        raise Unhealthy(f"worker {identity} has not reported for {keys.WORKER_TTL} s")


def main(arguments: list[str]) -> int:
    """The command."""
    kinds = {"http": http, "worker": worker}
    if len(arguments) != 2 or arguments[0] not in kinds:
        print(__doc__, file=sys.stderr)
        return 1
    try:
        kinds[arguments[0]](arguments[1])
    except Unhealthy as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
