"""API keys as text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasbah.common.errors import Unauthenticated
from kasbah.identity.services import keys


def test_a_key_has_the_published_form_and_parses() -> None:
    text = keys.generate()
    assert re.fullmatch(r"ksb_[0-9A-Za-z]{38}", text)
    assert keys.parse(text) == text
    assert len({keys.generate() for _ in range(1000)}) == 1000


def test_the_checksum_is_the_crc32_of_rfc_1952() -> None:
    # CRC-32 of "ksb_" + 32 zeros by an independent bitwise implementation, then base62.
    body = b"ksb_" + b"0" * 32
    crc = 0xFFFFFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    value, digits = crc ^ 0xFFFFFFFF, ""
    while len(digits) < 6:
        value, digit = divmod(value, 62)
        digits = keys.ALPHABET[digit] + digits
    assert keys.parse(body.decode() + digits)


@given(st.integers(0, 41), st.sampled_from(keys.ALPHABET + "-\u00e9\0"))
def test_one_wrong_character_is_found_without_the_database(position: int, letter: str) -> None:
    text = keys.generate()
    wrong = text[:position] + letter + text[position + 1 :]
    if wrong != text:
        with pytest.raises(Unauthenticated, match="malformed"):
            keys.parse(wrong)


@given(st.text(max_size=60))
def test_no_text_makes_parsing_fail_otherwise(text: str) -> None:
    with pytest.raises(Unauthenticated):
        keys.parse(text)


def test_only_a_peppered_digest_is_derived() -> None:
    text = keys.generate()
    assert len(keys.digest(text)) == 32
    assert keys.digest(text) == keys.digest(text) != keys.digest(keys.generate())
    assert text.encode() not in keys.digest(text)
