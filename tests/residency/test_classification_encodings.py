"""The same secret, written in all the ways that an engine would read as the same: none of them hides it."""

# ruff: noqa: RUF001 - characters that look like others are what these texts are about

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kasbah.residency.classification import characters, looking, numbers, spaced, text
from kasbah.residency.services.classification import LONGEST, UNREAD, look, text_of

from .samples import KINDS

CARD, IBAN, PHONE = "4111111111111111", "FR7630006000011234567890189", "+33612345678"
OTHERS_OF_DIGITS = [
    "٠١٢٣٤٥٦٧٨٩", "０１２３４５６７８９", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "⓪①②③④⑤⑥⑦⑧⑨", "⓿❶❷❸❹❺❻❼❽❾", "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "₀₁₂₃₄₅₆₇₈₉", "🯰🯱🯲🯳🯴🯵🯶🯷🯸🯹", "〇一二三四五六七八九", "".join(chr(0x1CCF0 + value) for value in range(10)),
    "".join(chr(0x11DE0 + value) for value in range(10)),
    "〇〡〢〣〤〥〦〧〨〩", "0ⅠⅡⅢⅣⅤⅥⅦⅧⅨ", "零壹貳參肆伍陸柒捌玖", "零壹贰叁肆伍陆柒捌玖", "零壱弐参四五六七八九",
]  # fmt: skip
UNSEEN = [chr(code) for first, last in characters.DEFAULT_IGNORABLE for code in {first, last}] + [
    "\u0301", "\u20e3", "\u0e34", "\u0941", "\x00", "\x1b", "\x1f", "\u0600", "\u00ad\u200d", "\u202e\u2066",
]  # fmt: skip
GAPS = [" ", "  ", "\t", "\t\t ", "-", ".", "/", " - ", "\u00a0", "\u2003\u2009", "\u2014", "\u2e3a", "\u3030", "_",
    ",", ", ", " | ", ":", "\u00b7", "\u2022", "\n", "\r\n", "\u2028", "\n\n",
    "\u3000", "--",
    " \u2013 ", "\u2800", "\\",
    "*", "🙂",
]  # fmt: skip


def found(body: Any) -> dict[str, int]:
    """As the gateway looks."""
    sent, whole = text_of(msgspec.json.encode(body))
    return look(sent, KINDS) | ({} if whole else {UNREAD: 1})


def in_message(value: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Charge it to: {value} today"}]}


def in_schema(value: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"card": {"const": value}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def in_tool(value: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [0, value, 3]}}}]}


def in_key(value: str) -> dict[str, Any]:
    return {"tools": [{"function": {"parameters": {"properties": {value: {"type": "string"}}}}}]}


def in_arguments(value: str, levels: int = 1) -> dict[str, Any]:
    """JSON as text, within JSON as text; every character escaped."""
    inner = '{"card": "' + "".join(f"\\u{unit:04x}" for unit in _utf16(value)) + '"}'
    for _ in range(levels - 1):
        inner = json.dumps({"again": inner})
    return {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": inner}}]}]}


def in_parts(value: str, at: int, second: str = "text") -> dict[str, Any]:
    parts = [{"type": "text", "text": f"Pay: {value[:at]}"}, {"type": second, second: value[at:]}]
    return {"messages": [{"role": "user", "content": parts}]}


def _utf16(value: str) -> Iterator[int]:
    data = value.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))


PLACES = [in_message, in_schema, in_tool, in_key, in_arguments, lambda value: in_arguments(value, 3)]


@st.composite
def written(draw: st.DrawFn) -> str:
    """A card's number: its digits of any scripts, what shows nothing among them, one kind of gap between its groups or
    a kind for each."""
    digits = list(CARD)
    scripts = draw(st.lists(st.sampled_from(OTHERS_OF_DIGITS[:9]), max_size=3))
    for at in range(16):
        if scripts and draw(st.booleans()):
            digits[at] = scripts[at % len(scripts)][int(digits[at])]
        if draw(st.integers(0, 3)) == 0:
            digits[at] += draw(st.sampled_from(UNSEEN))
    gaps = draw(
        st.one_of(
            st.just([""] * 3),
            st.sampled_from(GAPS).map(lambda gap: [gap] * 3),
            st.lists(st.sampled_from(GAPS), min_size=3, max_size=3),
        )
    )
    groups = ["".join(digits[at : at + 4]) for at in range(0, 16, 4)]
    return groups[0] + "".join(chain.from_iterable(zip(gaps, groups[1:], strict=True)))


@given(written(), st.sampled_from(PLACES))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_encoding_hides_a_card(value: str, place: Any) -> None:
    assert found(place(value)).get("payment-card") == 1, ascii(value)


def _nothing_simplified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "plain", lambda char: char)


def _old_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "is_ignorable", lambda char: char in "\u115f\u1160\u3164\ufe0f")
    monkeypatch.setattr(characters, "_YOUNG_DIGITS", {})


def _all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(characters, "_is_unseen", lambda _: False)
    monkeypatch.setattr(text, "is_mark", lambda _: False)


def _no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_is_number", lambda _: False)


def _no_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaced, "_STRETCHES", ())


def _no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_kind", lambda _: "")


def _groups_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_any_groups", lambda _: re.compile("(?!)"))


def _no_tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_ESCAPED_CONTROL", text._ESCAPED)


def _no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_unescaped", lambda found: found[0])


HIDDEN: list[tuple[str, dict[str, Any], Any]] = [
    ("a number as const", in_schema(int(CARD)), _no_numbers),
    ("a number in a tool", in_tool(int(CARD)), _no_numbers),
    ("a float", in_schema(float(CARD)), _no_numbers),
    ("a negative number", in_schema(-int(CARD)), _no_numbers),
    ("a negative float", in_tool(-float(CARD)), _no_numbers),
    ("groups as numbers", in_schema([4111, 1111, 1111, 1111]), _no_numbers),
    ("digits as numbers", in_schema([int(digit) for digit in CARD]), _no_numbers),
    ("groups as texts", in_schema(["4111", "1111", "1111", "1111"]), _no_parts),
    ("groups as texts and numbers", in_tool(["4111", 1111, "1111", 1111]), _no_parts),
    ("digits as texts", in_schema(list(CARD)), _no_parts),
    ("an IBAN's groups as texts", in_schema([IBAN[at : at + 4] for at in range(0, 27, 4)]), _no_parts),
    ("a text and a refusal", in_parts(CARD, 8, "refusal"), _no_parts),
    ("a bank's groups", in_message("FR76 30006 00001 12345678901 89"), _groups_of_four),
    ("another bank's groups", in_message("DE89-37040044-0532013000"), _groups_of_four),
    ("groups with letters", in_message("GB29 NWBK 601613 31926819"), _groups_of_four),
    ("nineteen digits", in_schema(6200000000000000000), _no_numbers),
    ("a variation selector", in_message("41\ufe00111\U000e01001" + CARD[6:]), _all_shown),
    ("tags", in_message("411111\U000e003411111\U000e003411111"), _all_shown),
    ("a filler", in_message("\uffa0".join(CARD)), _nothing_simplified),
    ("an unassigned ignorable", in_message("411111\ufff01111111\ufff0111"), _old_list),
    ("digits of Unicode 17", in_message("".join(chr(0x11DE0 + int(digit)) for digit in CARD)), _old_list),
    ("circled digits", in_message("".join("⓿❶❷❸❹❺❻❼❽❾"[int(digit)] for digit in CARD)), _nothing_simplified),
    ("commas", in_message("4111,1111,1111,1111"), _no_gaps),
    ("lines", in_message("4111\n1111\n1111\n1111"), _no_gaps),
    ("digits one by one", in_message(" ".join(CARD)), _no_gaps),
    ("digits by pairs", in_message("41 11 11 11 11 11 11 11"), _no_gaps),
    ("another card by bars", in_message("3782|822463|10005"), _no_gaps),
    ("escapes", in_arguments(CARD), _no_escapes),
    ("escapes of escapes", in_arguments(CARD, 4), _no_escapes),
    ("escaped tabs", {"arguments": '{"card":"\\n4111\\t1111\\t1111\\t1111"}'}, _no_tabs),
    ("two parts", in_parts(CARD, 7), _no_parts),
    ("sixteen parts", {"content": [{"type": "text", "text": digit} for digit in CARD]}, _no_parts),
    ("parts of refusals", {"content": [{"refusal": CARD[:5]}, {"refusal": CARD[5:]}]}, _no_parts),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "off"), HIDDEN, ids=[name for name, _, _ in HIDDEN])
def test_no_place_hides_a_card(name: str, body: dict[str, Any], off: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(body) == {"iban" if "IBAN" in name or "bank" in name or "letters" in name else "payment-card": 1}
    # The control: without what reads it, the same look finds nothing.
    off(monkeypatch)
    assert found(body) == {}, name


@pytest.mark.parametrize(
    "value",
    [
        "QA12 this is an ordinary sentence with seven words",
        "RO49 tests are green and nothing was found in 2024 or 2025",
        "LC12 0 of 4 a1 b2 c3 d4 e5 f6 g7 h8 i9 j0 k1 l2",
        "MT84 " + "word " * 10,
        "壹佰貳拾參 and Chapter Ⅳ, Part Ⅻ",
    ],
)
def test_words_after_what_begins_like_an_iban_are_none(value: str) -> None:
    assert found(in_message(value)) == {}
    assert found(in_schema(["red", "green", "4111", "blue", "1111", "1111"])) == {}


@pytest.mark.parametrize(
    "number", ["4.111111111111111e15", "4111111111111111.0", "41111111.11111111E8", "4111111111111111e0"]
)
def test_a_number_in_a_text_is_read_as_its_value(number: str) -> None:
    assert found(in_message(f'{{"card":{number}}}')) == {"payment-card": 1}


@pytest.mark.parametrize("at", range(1, 16))
def test_a_card_is_seen_wherever_two_parts_meet(at: int) -> None:
    assert found(in_parts(CARD, at)) == {"payment-card": 1}
    assert found(in_parts(IBAN, at)) == {"iban": 1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("iban", "FR76\t3000\t6000\t0112\t3456\t7890\t189"),
        ("iban", "FR76  3000  6000  0112  3456  7890  189"),
        ("iban", "FR76.3000.6000.0112.3456.7890.189"),
        ("iban", "FR76\n3000\n6000\n0112\n3456\n7890\n189"),
        ("iban", "\ufe0e".join(IBAN)),
        ("phone", "+33\t6  12\t34\u200456\u00ad78"),
        ("phone", "\U000e0001".join(PHONE)),
        ("national-id", "2\t95  10\u00a099 126 111\t93"),
        ("national-id", "マイナンバー 6214\t9832  0257"),
        ("national-id", "85.07.30\u2014033.28"),
        ("email", "ada\ufff8@exam\u2065ple.org"),
    ],
)
def test_other_kinds_are_read_in_the_same_way(kind: str, value: str) -> None:
    for place in (in_message, in_schema, in_key):
        assert found(place(value)) == {kind: 1}, ascii(value)


@pytest.mark.parametrize(
    "body",
    [
        in_message("4111\n1111\n1111\n1111\n1111\n1111"),  # a column
        in_message("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
        in_message("years 2019, 2020, 2021, 2022"),
        in_schema([0.4111111111111111, 4.5, 1e300, 12345]),
        in_schema({"minimum": -(2**63), "maximum": 2**63 - 1}),
        in_message("6214, 9832, 0257 and 6214\n9832\n0257"),  # a My Number has spaces or hyphens, or its name
        {"messages": [{"content": "4111 1111"}, {"content": "1111 1111"}]},  # a template writes who speaks between them
        {"input": [CARD[:8], CARD[8:]]},  # two prompts
        in_message(r"C:\new\table\b4 \\server\falcon"),
    ],
)
def test_lists_and_columns_are_no_cards(body: dict[str, Any]) -> None:
    assert found(body) == {}


def test_what_is_found_in_a_part_counts_once() -> None:
    assert found({"content": [{"type": "text", "text": f"{CARD} is"}, {"type": "text", "text": "mine"}]}) == {
        "payment-card": 1
    }


def test_every_digit_of_python_and_every_ignorable_character_is_known() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) == "Nd":
            assert characters.plain(char) == str(unicodedata.decimal(char))
        elif characters.is_ignorable(char):
            assert characters.plain(char) == ""
    assert sum(last - first + 1 for first, last in characters.DEFAULT_IGNORABLE) == 4174


SLOW: dict[str, Any] = {
    "lists": [[]] * 1_300_000,
    "numbers": [1] * 1_000_000,
    "keys": {str(number): 1 for number in range(400_000)},
    "parts": [{"type": "text", "text": "41"}] * 130_000,
    "many parts": [{"type": "text", "text": "4111 " * 20}] * 20_000,
    "all characters": "".join(map(chr, chain(range(0xD800), range(0xE000, 0x110000)))),
    "backslashes": "\\" * 2_000_000,
    "backslashes, then no escape": ("\\" * 900 + "x") * 2000,
    "escapes": "\\u0034" * 600_000,
    "exponents": "1.5e9 " * 600_000,
    "long exponents": "123456789012.5e9 " * 200_000,
    "digits and dots": "1." * 2_000_000,
    "digits and slashes": "1/" * 2_000_000,
    "digits and lines": "1_" * 2_000_000,
    "digits and hyphens": "1----" * 800_000,
    "country codes": "+1 " * 1_300_000,
    "letters and digits": "A1" * 2_000_000,
    "vowel signs": "1\u0e34" * 900_000,
    "many marks": "1" + "\u0e34" * 900_000,
    "spaces": " " * 3_000_000 + "x",
    "line ends": " \n" * 2_000_000,
    "singles": "1 " * 2_000_000,
    "nearly single": "1 1 1 1 1 1 1 1 1 1 1 1 ab " * 150_000,
    "nearly fours": "4111,1111,1111,11 " * 200_000,
    "ideographs": "一" * 1_000_000,
    "kana marks": "\uff9e\uff9f" * 600_000,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_no_text_takes_half_a_second(name: str) -> None:
    body = msgspec.json.encode(SLOW[name])

    def seconds() -> float:
        started = time.thread_time()
        sent, _ = text_of(body)
        look(sent, KINDS)
        return time.thread_time() - started

    assert any(seconds() < 0.5 for _ in range(3))  # a neighbour on the same core makes it slower, never faster


def test_a_search_that_takes_too_long_counts_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(in_message("1/" * 5000)) == {}
    monkeypatch.setattr(looking, "SECONDS", 0.0)
    assert found(in_message("1/" * 5000)) == {UNREAD: 1}


@pytest.mark.parametrize(
    ("limit", "body"),
    [
        ("MOST_VALUES", [""] * 20),
        ("MOST_BRACKETS", [[]] * 20),
        ("MOST_CHARACTERS", "abcdé" + "".join(map(chr, range(0x4E10, 0x4E24)))),
    ],
)
def test_beyond_each_limit_it_counts_as_found(limit: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(body) == {}
    monkeypatch.setattr(text, limit, 10)
    assert found(body) == {UNREAD: 1}


def test_a_long_ordinary_text_is_read_whole() -> None:
    assert found(in_message("The residence of data is known, in 2026 as before. " * (LONGEST // 60))) == {}
