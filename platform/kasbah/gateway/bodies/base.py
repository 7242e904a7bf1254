"""What all request bodies share: decoding with errors that name the field, and what is said of every body.

Known fields are typed and capped; fields that OpenAI's SDKs send and that mean nothing here (`store`, `user` ...)
are accepted and dropped; every other field is refused by name. An allow-list, because engines read fields of
their own that open doors: another tenant's cache salt, chat templates, guided decoding back ends, KV transfers.

A field whose form is the client's own (a schema, metadata) is decoded as msgspec.Raw: JSON as it came. Making objects
of it costs up to five hundred times what skipping it does, and while 4 MiB of empty lists, or of numbers that are hard
to round, become objects, no other tenant's request goes on. `read_raw` reads what is needed of it, up to a size.
"""

from __future__ import annotations

import re
from copy import copy
from typing import Annotated, ClassVar, Self, TypeVar

import msgspec

from kasbah.common.errors import Invalid

ALLOWANCE = 256  # tokens that a chat template may add to what the client wrote
MAX_CHOICES = 16
MAX_LOGPROBS = 20  # vLLM's default max_logprobs; a larger number is memory for the asking (CVE-2026-34756)
MAX_TOKENS = 1_000_000
MAX_PAIRS = 64 * 1024  # bytes of logit_bias and of metadata, as they came: several times what they may hold
NOT_SENT = msgspec.Raw()

Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]
Logprobs = Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], msgspec.Meta(min_length=1, max_length=MAX_TOKENS)]
StopText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
_FIELD = re.compile(r"field `(.+?)`")
_BIAS = msgspec.json.Decoder(dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]])
_WAY_OUT = "Remove it: a field reaches the model only if this API knows it; the developer's guide lists those it knows."


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage`: one last chunk with the usage. `include_obfuscation` is accepted and means nothing here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request to a model. `omit_defaults` keeps what was not sent, or sent as null, out of the engine's body."""

    # Accepted, and not for the engine: what means nothing here, and what the platform sees to itself.
    KEPT_BACK: ClassVar[tuple[str, ...]] = ("user",)

    model: Name
    user: str | None = None

    def check(self, longest: int) -> None:
        """Raise Invalid for what types cannot say; `longest` is the model's context in tokens.

        What came as msgspec.Raw and goes to the engine is from now on what was understood of it, written anew."""

    def check_model(self, architecture: str) -> None:
        """Raise Invalid for what this kind of model cannot take; `architecture` as its config.json names it."""

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return False

    @property
    def include_usage(self) -> bool:
        """Whether the client asked for the usage chunk of a stream."""
        return False

    @property
    def readable(self) -> bool:
        """Whether its prompts are text; token ids are none."""
        return True

    def prompts(self) -> int:
        """How many prompts the body holds."""
        return 1

    def answers(self) -> int:
        """How many answers the prompts get, each with the prompt in one context."""
        return self.prompts()

    def completion_at_most(self, longest: int) -> int:
        """Tokens that the answer may have, all choices together."""
        return 0

    def with_limit(self, tokens: int) -> Self:
        """The body as the engine gets it, with a limit of an answer where it names none."""
        return self

    def prompt_at_most(self, size: int, longest: int) -> int:
        """Tokens that the prompts may have: no token is shorter than a byte of the body's `size`, nor a prompt
        longer than the model's context."""
        return min(size + ALLOWANCE, longest * self.prompts())

    def as_sent(self) -> Self:
        """A copy with what the engine is given, and nothing else."""
        body = copy(self)
        for name in self.KEPT_BACK:
            setattr(body, name, NOT_SENT if isinstance(getattr(body, name), msgspec.Raw) else None)
        return body

    def for_engine(self) -> bytes:
        """JSON of what the engine is given."""
        return msgspec.json.encode(self.as_sent())


Value = TypeVar("Value")


class Generation(Body, kw_only=True):
    """What chat and text completions share: sampling and streaming."""

    KEPT_BACK: ClassVar[tuple[str, ...]] = (*Body.KEPT_BACK, "stream_options")
    LIMITS: ClassVar[tuple[str, ...]] = ("max_tokens",)  # of a choice; the first that was sent counts

    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: msgspec.Raw = NOT_SENT
    max_tokens: Count | None = None
    n: Choices | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], msgspec.Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    # vLLM's own sampling parameters, which open models need and which cost nothing
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=10_000)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def limit(self) -> int | None:
        """The client's own limit of a choice, in tokens."""
        return next((limit for name in self.LIMITS if (limit := getattr(self, name)) is not None), None)

    def check(self, longest: int) -> None:
        if self.stream_options is not None and not self.stream:
            raise Invalid("stream_options needs stream: true.", param="stream_options")
        bias = read_raw(_BIAS, self.logit_bias, MAX_PAIRS, "logit_bias")
        if bias is not None:
            _check_bias(bias)
        self.logit_bias = written(bias)
        limit = self.limit()
        if limit is not None and limit > longest:
            name = next(name for name in self.LIMITS if getattr(self, name) is not None)
            raise Invalid(f"This model's context has {longest} tokens; ask for fewer.", param=name)
        if self.min_tokens is not None and self.min_tokens > (limit or longest):
            raise Invalid("min_tokens is larger than what the answer may have.", param="min_tokens")


def _check_bias(bias: dict[str, float]) -> None:
    if len(bias) > 300:
        raise Invalid("logit_bias takes at most 300 tokens.", param="logit_bias")
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise Invalid("The keys of logit_bias are token ids as text, such as '50256'.", param="logit_bias")


def read_raw(decoder: msgspec.json.Decoder[Value], raw: msgspec.Raw, most: int, where: str) -> Value | None:
    """A field that came as JSON, None where it was not sent or is null. Raises Invalid, also over `most` bytes."""
    data = bytes(raw)
    if data in (b"", b"null"):
        return None
    if len(data) > most:
        raise Invalid(f"{where} has at most {most} bytes.", param=where)
    return decode(decoder, data, where)


def written(value: object) -> msgspec.Raw:
    """JSON of what was read of a field."""
    return NOT_SENT if value is None else msgspec.Raw(msgspec.json.encode(value))


def decode(decoder: msgspec.json.Decoder[Value], data: bytes, where: str = "") -> Value:
    """Parse a body, or what stands in its field `where`. Raises Invalid, with the field in `param`."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _named(str(error), where) from error
    except RecursionError as error:
        raise Invalid("The body is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise Invalid("The body is not UTF-8.") from error
    except msgspec.DecodeError as error:
        raise Invalid(f"The body is not valid JSON: {error}") from error


def _named(text: str, beneath: str) -> Invalid:
    """The error of a msgspec message such as: Expected `int`, got `str` - at `$.messages[0].n`."""
    place = _PLACE.search(text)
    where = place.group(1) if place else ""
    if beneath:
        where = f"{beneath}.{where}" if where and not where.startswith("[") else beneath + where
    what = text[: place.start()] if place else text
    field = _FIELD.search(what)
    if field is not None and "unknown" in what:
        where = f"{where}.{field.group(1)}".lstrip(".")
    if "unknown" in what or what.startswith("Expected `null`"):  # what SDKs send as null is known as null alone
        return Invalid(f"Unknown field {where}. {_WAY_OUT}", param=where, code="unknown_field")
    if field is not None:
        where = f"{where}.{field.group(1)}".lstrip(".")
        return Invalid(f"The field {where} is missing.", param=where, code="missing_field")
    if where.endswith(".role"):
        return Invalid("Unknown role: roles are system, developer, user, assistant and tool.", param=where)
    subject = where or "The body"
    return Invalid(f"{subject}: {what[0].lower()}{what[1:].replace('`', '')}.", param=where or None)
