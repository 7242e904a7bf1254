"""What the report says, in each language: gettext catalogs, read as written, so that no compiled copy can be stale."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from importlib import resources

from babel.dates import format_date, format_datetime
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

LANGUAGES = ("en", "fr", "ar", "ja")  # the English texts are the catalogs' keys
RIGHT_TO_LEFT = ("ar",)
COMMA = {"ar": "، ", "ja": "、"}  # between the members of a list; elsewhere as in English


class Texts:
    """One language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.direction = "rtl" if language in RIGHT_TO_LEFT else "ltr"
        self.comma = COMMA.get(language, ", ")
        self._catalog = {} if language == "en" else _catalog(language)

    def gettext(self, text: str) -> str:
        """The text in this language. Raises KeyError: a test sees to it that none is missing."""
        return text if self.language == "en" else self._catalog[text]

    def number(self, value: int) -> str:
        """With the language's marks between thousands."""
        return format_decimal(value, locale=self.language)

    def day(self, value: str) -> str:
        """A date such as 2026-11-28."""
        return format_date(date.fromisoformat(value), "medium", locale=self.language)

    def moment(self, value: str) -> str:
        """A time of an event, in UTC, to the second."""
        if not value:
            return ""
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        return f"{format_datetime(moment, 'medium', locale=self.language)} UTC"


@cache
def _catalog(language: str) -> dict[str, str]:
    path = f"locale/{language}/LC_MESSAGES/django.po"
    with resources.files("kasbah").joinpath(path).open("rb") as file:
        return {str(one.id): str(one.string) for one in read_po(file, locale=language) if one.id}
