"""Failed logins are counted in the control plane's store, by address and by account, so guessing is slow everywhere.

An attempt is counted before the password is looked at, so that many at once get no further than one after the other;
a success is taken off again.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import cache

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from kasbah.common import stores
from kasbah.common.errors import RateLimited, Unavailable

WINDOW = 15 * 60  # seconds
BY_ACCOUNT = 10
BY_ADDRESS = 50  # an office shares one
# A count that has run out meanwhile is not begun anew below zero.
GIVE_BACK = """
redis.call('DEL', KEYS[1])
if tonumber(redis.call('GET', KEYS[2]) or '0') > 0 then redis.call('DECR', KEYS[2]) end
"""


@cache
def _store() -> Redis:
    return stores.sync_client()


def _keys(address: str, email: str) -> tuple[tuple[str, int], ...]:
    # Keyed, so that the store shows neither addresses nor accounts.
    def name(kind: str, value: str) -> str:
        return (
            "ksb:login:" + hmac.digest(settings.SECRET_KEY.encode(), f"{kind}:{value}".encode(), hashlib.sha256).hex()
        )

    return (name("account", email.strip().lower()), BY_ACCOUNT), (name("address", address), BY_ADDRESS)


def take(address: str, email: str) -> None:
    """Count an attempt before the password is looked at. Raises RateLimited, Unavailable (it fails closed)."""
    try:
        for key, most in _keys(address, email):
            pipeline = _store().pipeline()
            pipeline.incr(key)
            pipeline.expire(key, WINDOW, nx=True)
            pipeline.ttl(key)
            count, _, left = pipeline.execute()
            if count > most:
                raise RateLimited("Too many attempts to log in. Wait, then try again.", retry_after=max(1, left))
    except RedisError as error:
        raise Unavailable("Logging in is not possible now; try again.", retry_after=5) from error


def give_back(address: str, email: str) -> None:
    """It was no failure: wipes the account's count, and takes what `take` counted off the address again."""
    (account, _), (place, _) = _keys(address, email)
    try:
        _store().eval(GIVE_BACK, 2, account, place)
    except RedisError as error:
        raise Unavailable("Logging in is not possible now; try again.", retry_after=5) from error
