"""Request headers before anybody reads one: what may come once comes once, lists are joined, names are what they seem.

Programs differ on which of two lines with one name counts, and on whether `kasbah_data_class` is `kasbah-data-class`;
a request that says two things is refused by name instead of being believed in one of them (RFC 9110, section 5.3).
"""

from __future__ import annotations

from collections.abc import Iterable

from kasbah.common.errors import Invalid

Headers = Iterable[tuple[bytes, bytes]]

OUR_LISTS = frozenset({b"kasbah-data-tags"})
OURS = frozenset({b"kasbah-data-class", b"kasbah-purpose", b"kasbah-resume-within"})
# What steers who asks, for what, or how the message is read. Everything else is a list, or nobody reads it.
SINGLE = OURS | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"expect",
    b"host",
    b"idempotency-key",
    b"if-modified-since",
    b"if-range",
    b"if-unmodified-since",
    b"last-event-id",
    b"origin",
    b"proxy-authorization",
    b"range",
    b"referer",
    b"transfer-encoding",
    b"x-csrftoken",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-http-method-override",
}
OUR_PREFIX = b"kasbah-"


def join_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers with each name once, in lower case. Raises Invalid, naming the header."""
    found: dict[bytes, bytes] = {}
    for given, value in headers:
        name = given.lower()
        _check_name(name)
        if name not in found:
            found[name] = value
        elif name in SINGLE:
            raise Invalid("This header comes more than once; send it once.", param=name.decode("latin-1"))
        else:
            # Cookies are joined by HTTP/2's rule (RFC 9113, section 8.2.3).
            found[name] += (b"; " if name == b"cookie" else b", ") + value
    return list(found.items())


def _check_name(name: bytes) -> None:
    plain = name.replace(b"_", b"-") if b"_" in name else name
    ours = plain.startswith(OUR_PREFIX)
    if plain is not name and (ours or plain in SINGLE):
        raise Invalid(f"Write this header with hyphens: {plain.decode('latin-1')[:60]}.", param=_shown(name))
    if ours and plain not in OURS and plain not in OUR_LISTS:
        known = ", ".join(sorted(known.decode() for known in OURS | OUR_LISTS))
        raise Invalid(f"There is no such header; known: {known}.", param=_shown(name))


def _shown(name: bytes) -> str:
    return name.decode("latin-1")[:60]
