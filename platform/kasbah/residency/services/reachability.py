"""A first connection to a new site's broker and store, so that a wrong address or password is found at once."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from amqp.exceptions import AccessRefused, AMQPError
from kombu import Connection
from kombu.exceptions import KombuError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from inference_worker.contract import tls
from kasbah.residency.models import Site
from kasbah.residency.services.health import OK
from kasbah.residency.services.sites import addresses

TIMEOUT = 2.0  # seconds for each step of a connection
PROBE = "ksb:probe"  # a key that is written and ends by itself

REFUSED = "the user or password is refused"


def try_site(site: Site) -> dict[str, str]:
    """What was found at the `broker` and the `store` of a site: "ok", or what is wrong. It names no address."""
    broker, store = addresses(site.id, site.broker_url_sealed, site.store_url_sealed)
    found = _try_store(store)
    return {"broker": found if broker == store else _try_broker(broker), "store": found}


def _try_broker(url: str) -> str:
    if urlsplit(url).scheme in {"redis", "rediss"}:
        return _try_store(url)
    connection: Any = Connection(url, connect_timeout=TIMEOUT, ssl=tls.options(url) or False)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        connection.default_channel.close()
    except AccessRefused:
        return REFUSED
    except (AMQPError, KombuError, OSError) as error:
        return _reason(error)
    finally:
        connection.release()
    return OK


def _try_store(url: str) -> str:
    """Whether it can be written to: one that is full, or a read-only replica, answers a ping all the same."""
    retry = Retry(NoBackoff(), 0)
    client = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry, protocol=2)
    try:
        client.set(PROBE, "1", ex=1)
    except (AuthenticationError, NoPermissionError):
        return REFUSED
    except ResponseError as error:
        # Such as NOAUTH, OOM, READONLY: the server's own words, which hold no address.
        return REFUSED if str(error).startswith(("NOAUTH", "WRONGPASS")) else f"it refuses to be written to: {error}"
    except (RedisError, OSError, ValueError) as error:
        return _reason(error)
    finally:
        client.close()
    return OK


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error.__context__ or error
    return f"cannot be reached ({type(cause).__name__})"
