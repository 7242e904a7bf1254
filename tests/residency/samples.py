"""Made-up texts in English, French, Arabic and Japanese, labelled with what stands in them.

All numbers are made here, most with valid check digits, and belong to nobody on purpose. The same seed gives the same
texts.
"""

# ruff: noqa: RUF001 - full-width characters are what these texts are about

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import phonenumbers
from stdnum import iban, luhn
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.jp import in_

KINDS = ("email", "phone", "iban", "national-id", "payment-card")
LANGUAGES = ("en", "fr", "ar", "ja")

# {x} is what the text is about.
FRAMES = {
    "en": ("Please write to the customer: {x}.", "{x} was given in the form, check it", "Draft an answer. Note ({x})"),
    "fr": ("Merci de répondre au client : {x}.", "Voir la fiche ({x}), puis résumer", "Noté au dossier: {x}, à suivre"),
    "ar": ("يرجى الرد على العميل: {x}.", "ورد في الاستمارة {x}، لخص الطلب", "ملاحظة ({x}) في الملف"),
    "ja": ("お客様に返信してください：{x}。", "申込書には{x}と記載されています", "備考（{x}）を要約してください"),
}
CIN_WORDS = {"en": "CIN", "fr": "carte nationale n°", "ar": "رقم البطاقة الوطنية", "ja": "CIN"}
OTHER_DIGITS = {"ar": "٠١٢٣٤٥٦٧٨٩", "ja": "０１２３４５６７８９"}


@dataclass(frozen=True)
class Sample:
    """A text, its language, and the kind that stands in it ("": none)."""

    text: str
    language: str
    kind: str


def digits(dice: random.Random, count: int) -> str:
    """Random digits, the first one not 0."""
    return str(dice.randrange(10 ** (count - 1), 10**count))


def grouped(number: str, sizes: tuple[int, ...], gap: str) -> str:
    """The number in groups of these sizes."""
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return gap.join(parts)


def email(dice: random.Random, _: str) -> str:
    """An address."""
    name = dice.choice(["ada.lovelace", "y_idrissi", "taro+news", "m-benali", "info", "jean.dupont2"])
    return f"{name}@{dice.choice(['example.org', 'mail.example.fr', 'exemple.ma', 'example.co.jp', 'mail.example.ae'])}"


def phone(dice: random.Random, _: str) -> str:
    """A number of one of the four countries as it is written there, or of any with its code."""
    while True:
        region, number = dice.choice(
            [
                ("FR", f"0{dice.choice('1234567')}{digits(dice, 8)}"),
                ("MA", f"0{dice.choice('567')}{digits(dice, 8)}"),
                ("JP", f"0{dice.choice(['90', '80', '70'])}{digits(dice, 8)}"),
                ("JP", f"0{dice.choice('36')}{digits(dice, 8)}"),
                ("AE", f"05{dice.choice('024568')}{digits(dice, 7)}"),
                ("DE", f"+4915{digits(dice, 9)}"),
                ("GB", f"+447{digits(dice, 9)}"),
            ]
        )
        parsed = phonenumbers.parse(number, region)
        if phonenumbers.is_valid_number(parsed):
            break
    forms: list[int | None] = [phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164]
    if not number.startswith("+"):
        forms += [phonenumbers.PhoneNumberFormat.NATIONAL, None]
    form = dice.choice(forms)
    return number if form is None else phonenumbers.format_number(parsed, form)


def bank_account(dice: random.Random, _: str) -> str:
    """An IBAN of France, Morocco, the Emirates, Germany or the United Kingdom."""
    country, bban = dice.choice(
        [
            ("FR", digits(dice, 23)),
            ("MA", digits(dice, 24)),
            ("AE", digits(dice, 19)),
            ("DE", digits(dice, 18)),
            ("GB", f"NWBK{digits(dice, 14)}"),
        ]
    )
    number = f"{country}{iban.calc_check_digits(f'{country}00{bban}')}{bban}"
    return dice.choice([number, iban.format(number), number.lower()])


def card(dice: random.Random, _: str) -> str:
    """A payment card's."""
    prefix, length = dice.choice([("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("3530", 16), ("6011", 16)])
    number = prefix + "".join(str(dice.randrange(10)) for _ in range(length - len(prefix) - 1))
    number += luhn.calc_check_digit(number)
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    return dice.choice([number, grouped(number, sizes, " "), grouped(number, sizes, "-")])


def french(dice: random.Random, _: str) -> str:
    """A NIR."""
    base = f"{dice.choice('12')}{dice.randrange(100):02}{dice.randint(1, 12):02}{dice.randint(1, 95):02}"
    base += f"{dice.randint(1, 990):03}{dice.randint(1, 999):03}"
    number = base + nir.calc_check_digits(base)
    return dice.choice([number, nir.format(number), f"NIR {grouped(base, (1, 2, 2, 2, 3, 3), ' ')}"])


def moroccan(dice: random.Random, language: str) -> str:
    """An identity card's, which a word introduces, or an enterprise's ICE."""
    base = f"00{digits(dice, 11)}"
    letters = "".join(dice.choice("ABCDEFGHJKLMQST") for _ in range(dice.randint(1, 2)))
    enterprise = f"{base}{(97 - int(base + '00') % 97) % 97:02}"
    return dice.choice([f"{CIN_WORDS[language]} {letters}{digits(dice, 6)}", f"ICE {enterprise}"])


def japanese(dice: random.Random, language: str) -> str:
    """An individual number."""
    base = digits(dice, 11)
    number = base + in_.calc_check_digit(base)
    word = {"ja": "マイナンバー", "en": "My Number ", "fr": "My Number ", "ar": "My Number "}[language]
    return dice.choice([word + number, in_.format(number), grouped(number, (4, 4, 4), "-")])


def emirati(dice: random.Random, _: str) -> str:
    """An Emirates ID's."""
    base = f"784{dice.randint(1940, 2015)}{digits(dice, 7)}"
    number = base + luhn.calc_check_digit(base)
    return dice.choice([number, grouped(number, (3, 4, 7, 1), "-")])


def european(dice: random.Random, _: str) -> str:
    """A German tax identification number or a Spanish DNI."""
    base = digits(dice, 8)
    german = "".join(dice.sample("123456789", 9))  # nine different digits, one of them twice
    german += german[0]
    german = next(german + last for last in "0123456789" if idnr.is_valid(german + last))
    return dice.choice([base + dni.calc_check_digit(base), german, grouped(german, (2, 3, 3, 3), " ")])


MAKERS: tuple[tuple[str, Callable[[random.Random, str], str]], ...] = (
    ("email", email),
    ("phone", phone),
    ("iban", bank_account),
    ("payment-card", card),
    *(("national-id", make) for make in (french, moroccan, japanese, emirati, european)),
)


def nothing(dice: random.Random, _: str) -> str:
    """What looks like personal data and is none."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: f"#{digits(dice, dice.randint(5, 10))}",
        lambda: digits(dice, dice.randint(6, 16)),
        lambda: f"INV-{dice.randint(2019, 2026)}-{digits(dice, 6)}",
        lambda: f"{dice.randint(1, 28):02}/{dice.randint(1, 12):02}/{dice.randint(1990, 2030)} 10:30",
        lambda: f"{dice.randint(1990, 2030)}{dice.randint(1, 12):02}{dice.randint(1, 28):02}{dice.randint(0, 23):02}30",
        lambda: f"{dice.random() * 1000:.9f}",
        lambda: ".".join(str(dice.randrange(256)) for _ in range(4)),
        lambda: str(uuid.UUID(int=dice.getrandbits(128))),
        lambda: f"{dice.getrandbits(256):064x}",
        lambda: f"{digits(dice, 3)} {digits(dice, 3)} {digits(dice, 3)} EUR",
        lambda: f"978-{digits(dice, 1)}-{digits(dice, 4)}-{digits(dice, 4)}-{digits(dice, 1)}",
        lambda: f"@{dice.choice(['ada', 'team', 'media query'])}",
        lambda: f"package@{dice.randint(1, 20)}.{dice.randint(0, 9)}.1",
        lambda: f"https://example.org/orders/{digits(dice, 12)}",
        lambda: f"{dice.uniform(-90, 90):.6f}, {dice.uniform(-180, 180):.6f}",
        lambda: str(dice.randint(1_500_000_000, 1_800_000_000) * dice.choice([1, 1000])),
        lambda: "+" + digits(dice, 4),
    )
    return dice.choice(makers)()


def samples(seed: int, each: int) -> Iterator[Sample]:
    """For each language, `each` texts for each way of making personal data, and as many in all that have none."""
    dice = random.Random(seed)
    for language in LANGUAGES:
        for number in range(each * len(MAKERS)):
            for kind, make in (MAKERS[number % len(MAKERS)], ("", nothing)):
                what = make(dice, language)
                if language in OTHER_DIGITS and dice.random() < 0.3 and "@" not in what:
                    what = what.translate(str.maketrans("0123456789", OTHER_DIGITS[language]))
                yield Sample(dice.choice(FRAMES[language]).format(x=what), language, kind)


@dataclass(frozen=True)
class Quality:
    """Of one kind, over labelled texts: how many that have it are found, and how many of those found have it."""

    recall: float
    precision: float


def quality(find: Callable[[str], Iterable[str]], seed: int = 1, each: int = 100) -> tuple[dict[str, Quality], float]:
    """How well `find`, which names the kinds in a text, does by kind; and the share of texts without personal data in
    which it finds any."""
    hits, misses, wrong, clean, flagged = Counter[str](), Counter[str](), Counter[str](), 0, 0
    for sample in samples(seed, each):
        found = set(find(sample.text))
        for kind in found - {sample.kind}:
            wrong[kind] += 1
        if sample.kind:
            (hits if sample.kind in found else misses)[sample.kind] += 1
        else:
            clean, flagged = clean + 1, flagged + bool(found)
    return {
        kind: Quality(hits[kind] / (hits[kind] + misses[kind]), hits[kind] / max(1, hits[kind] + wrong[kind]))
        for kind in KINDS
    }, flagged / clean
