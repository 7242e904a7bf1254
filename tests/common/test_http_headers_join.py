"""Headers that come more than once, and names that only look like ours."""

from __future__ import annotations

import pytest

from kasbah.common.errors import Invalid
from kasbah.common.http_headers import OURS, SINGLE, join_headers

SINGLES = sorted(name.decode() for name in SINGLE)


@pytest.mark.parametrize("name", SINGLES)
@pytest.mark.parametrize("second", [b"", b"public", b"secret"])
def test_a_single_valued_header_that_comes_twice_is_named(name: str, second: bytes) -> None:
    for writing in (name, name.upper()):
        with pytest.raises(Invalid) as refused:
            join_headers([(name.encode(), b"secret"), (b"accept", b"*/*"), (writing.encode(), second)])
        assert refused.value.param == name


@pytest.mark.parametrize(
    ("values", "joined"),
    [
        ([b"personal", b""], b"personal, "),
        ([b"", b"personal"], b", personal"),
        ([b"personal", b"health,internal"], b"personal, health,internal"),
    ],
)
def test_lines_of_a_list_are_joined_in_their_order(values: list[bytes], joined: bytes) -> None:
    assert join_headers([(b"kasbah-data-tags", value) for value in values]) == [(b"kasbah-data-tags", joined)]


def test_cookies_are_joined_as_http_2_says() -> None:
    assert join_headers([(b"cookie", b"a=1"), (b"cookie", b"b=2")]) == [(b"cookie", b"a=1; b=2")]


@pytest.mark.parametrize(
    "name", ["kasbah_data_class", "kasbah-data_tags", "Kasbah_Purpose", "idempotency_key", "x_forwarded_proto"]
)
def test_an_underscore_does_not_stand_for_a_hyphen(name: str) -> None:
    with pytest.raises(Invalid, match="hyphens") as refused:
        join_headers([(name.encode(), b"x")])
    assert refused.value.param == name.lower()


@pytest.mark.parametrize("name", ["kasbah-data-clas", "kasbah-tags", "kasbah-", "kasbah-data-class-2"])
def test_a_misspelt_header_of_ours_is_no_silent_default(name: str) -> None:
    with pytest.raises(Invalid, match="kasbah-data-class") as refused:
        join_headers([(name.encode(), b"secret")])
    assert refused.value.param == name


def test_headers_of_others_pass() -> None:
    given = [(b"x-my_own", b"1"), (b"user-agent", b"a"), (b"openai-organization", b"b"), (b"accept", b"*/*")]
    assert join_headers(given) == given


def test_every_header_of_ours_that_is_no_list_is_single() -> None:
    assert OURS <= SINGLE
