"""Numbers that stand for a person, an account's card or an enterprise: how they are written and how they are checked.

Check digits are python-stdnum's. Where a check leaves many numbers standing that mean something else, a word nearby
has to say what the number is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum import luhn
from stdnum.be import nn
from stdnum.ch import ssn
from stdnum.cz import rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.ee import ik
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gr import amka
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.it import codicefiscale
from stdnum.jp import in_
from stdnum.ma import ice
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.ro import cnp
from stdnum.se import personnummer

from kasbah.residency.classification.text import folded

CARD, NATIONAL = "payment-card", "national-id"


@dataclass(frozen=True, slots=True)
class Format:
    """`groupings`: digits of each group as it is written, one group when it is written without gaps. `words`: one of
    them must stand near; none: the check alone is enough. `alone`: no more groups of digits may follow or precede."""

    kind: str
    groupings: tuple[tuple[int, ...], ...]
    valid: Callable[[str], bool]
    words: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Lettered:
    """An identifier with letters: `pattern` is how it is written, in capitals."""

    name: str
    pattern: str
    valid: Callable[[str], bool]
    words: tuple[str, ...] = ()


def _words(*words: str) -> tuple[str, ...]:
    return tuple(folded(word) for word in words)


# Issuer identification numbers (ISO/IEC 7812) of the large schemes, as they publish them.
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-59]|[689][0-9])[0-9]{11,16}"  # Diners Club
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12,15}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    r"|62[0-9]{14,17}"  # UnionPay
    r"|(?:50|5[6-9]|6[0-9])[0-9]{11,17}"  # Maestro
)


def card(number: str) -> bool:
    """Whether it is a payment card's: a known issuer and the Luhn digit (ISO/IEC 7812-1, annex B)."""
    return _ISSUERS.fullmatch(number) is not None and luhn.is_valid(number)


def emirates_id(number: str) -> bool:
    """Whether it is an Emirates ID's: 784 (the country's ISO 3166-1 code), four digits that are mostly the year of
    birth, seven, and a digit that checks. No formula is published: numbers with a year of birth are taken
    without it, others if the Luhn digit agrees, which holds for most."""
    return number.startswith("784") and (number[3:5] in {"19", "20"} or luhn.is_valid(number))


def moroccan_ice(number: str) -> bool:
    """Whether it is a common identifier of enterprises; those given out so far begin with 00."""
    return number.startswith("00") and ice.is_valid(number)


def french_nir(number: str) -> bool:
    """Whether it is a NIR with its key: sex (1, 2; 3, 4 and 7, 8 while being registered), year, month, and so on."""
    return number[0] in "123478" and nir.is_valid(number)


def french_nir_without_key(number: str) -> bool:
    """The same without its two check digits; months beyond 12 are those of people whose month is not known."""
    return number[0] in "123478" and (1 <= int(number[3:5]) <= 12 or 20 <= int(number[3:5]) <= 99)


MY_NUMBER = _words("マイナンバー", "個人番号", "my number", "mynumber", "individual number")
NIR = _words("nir", "sécurité sociale", "sécu", "numéro de sécu", "assuré", "insee", "الضمان الاجتماعي")

NUMBERS: tuple[Format, ...] = (
    Format(CARD, ((13,), (14,), (15,), (16,), (17,), (18,), (19,)), card),
    Format(CARD, ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)), card),
    Format(NATIONAL, ((15,), (13, 2), (1, 2, 2, 2, 3, 3, 2)), french_nir),
    Format(NATIONAL, ((13,), (1, 2, 2, 2, 3, 3)), french_nir_without_key, NIR),
    Format(NATIONAL, ((15,), (9, 4, 2), (3, 3, 3, 3, 3)), moroccan_ice),
    Format(NATIONAL, ((15,),), ice.is_valid, _words("ice", "identifiant commun", "التعريف الموحد")),
    Format(NATIONAL, ((4, 4, 4),), in_.is_valid, alone=True),  # Japan
    Format(NATIONAL, ((12,),), in_.is_valid, MY_NUMBER),
    Format(NATIONAL, ((15,), (3, 4, 7, 1)), emirates_id),
    Format(NATIONAL, ((11,), (2, 3, 3, 3)), idnr.is_valid),  # Germany
    Format(NATIONAL, ((11,), (2, 2, 2, 3, 2), (6, 3, 2), (6, 5)), nn.is_valid),  # Belgium
    Format(NATIONAL, ((13,), (3, 4, 4, 2)), ssn.is_valid),  # Switzerland
    Format(NATIONAL, ((11,), (6, 5)), fodselsnummer.is_valid),  # Norway
    Format(NATIONAL, ((11,),), ik.is_valid),  # Estonia, and Lithuania, whose number is the same
    Format(NATIONAL, ((13,),), cnp.is_valid),  # Romania
    Format(NATIONAL, ((8, 4), (6, 4)), personnummer.is_valid, _words("personnummer", "personnr", "pnr")),  # Sweden
    Format(NATIONAL, ((10,), (6, 4)), cpr.is_valid, _words("cpr", "personnummer")),  # Denmark
    Format(NATIONAL, ((6, 4), (10,)), rc.is_valid, _words("rodné číslo", "rč", "r.č.")),  # Czechia, Slovakia
    Format(NATIONAL, ((9,), (4, 2, 3)), bsn.is_valid, _words("bsn", "burgerservicenummer", "sofinummer")),
    Format(NATIONAL, ((9,), (3, 3, 3)), nif.is_valid, _words("nif", "contribuinte")),  # Portugal
    Format(NATIONAL, ((11,),), pesel.is_valid, _words("pesel")),  # Poland
    Format(NATIONAL, ((11,),), oib.is_valid, _words("oib")),  # Croatia
    Format(NATIONAL, ((11,),), amka.is_valid, _words("amka", "αμκα")),  # Greece
)

_DIGIT = "[0-9LMNPQRSTUV]"  # a digit of a codice fiscale, or the letter that stands for it where two would be alike

LETTERED: tuple[Lettered, ...] = (
    Lettered("dni", r"[0-9]{8}[ -]?[A-Z]", dni.is_valid),
    Lettered("nie", r"[XYZ][ -]?[0-9]{7}[ -]?[A-Z]", nie.is_valid),
    Lettered(
        "codicefiscale",
        rf"[A-Z]{{3}} ?[A-Z]{{3}} ?{_DIGIT}{{2}}[ABCDEHLMPRST]{_DIGIT}{{2}} ?[A-Z]{_DIGIT}{{3}} ?[A-Z]",
        codicefiscale.is_valid,
    ),
    Lettered("hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]", hetu.is_valid),  # Finland
    Lettered("pps", r"[0-9]{7}[A-W][A-IW]?", pps.is_valid),  # Ireland
    Lettered("nir", r"[1-478][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?2[AB](?:[ .]?[0-9]{3}){2}[ .]?[0-9]{2}", nir.is_valid),
    # Morocco's identity card has no check digit: one or two letters and five to seven digits.
    Lettered(
        "cin",
        r"[A-Z]{1,2} ?[0-9]{5,7}",
        lambda _: True,
        _words("cin", "cnie", "carte nationale", "carte d'identité", "البطاقة الوطنية", "بطاقة التعريف", "رقم البطاقة"),
    ),
)
