#!/usr/bin/env python3
"""Check a Kasbah receipt offline: which worker, at which site, with which weights, answered one request.

Needs Python 3.11 and the package `cryptography`, and nothing of Kasbah. Run it with `python -I`.
Exit code 0: everything that was asked holds. 1: it does not; the first word on standard error names why:

  malformed         not a token, a payload or a document that is not what a receipt or ticket holds
  unknown_key       signed by a key that is not among the trusted ones
  bad_signature     the signature does not hold: altered, forged, or made for another purpose
  not_canonical     signed, but not in the one form that all programs read alike
  ticket_mismatch   the receipt is about another ticket, or contradicts it
  site_not_allowed  processed at a site that the ticket does not allow
  ticket_expired    started after the ticket had expired
  before_ticket     started more than a minute before the ticket was issued
  unknown_site      processed at a site that --sites does not list
  wrong_jurisdiction  processed in another jurisdiction than --jurisdiction allows
  unexpected        differs from what --expect asks for

2: wrong usage, or a file that cannot be read. 3: it holds in itself, but no key was given, and the keys that came with
it prove nothing by themselves.

RECEIPT, and each file with keys or a ticket, may be what the platform gives, as it came: the answer of /api/receipts/,
the dossier (.zip), or its file dossier/receipt-*.json; for keys also the answers of /api/signing-keys/ and
/api/workers/.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

RECEIPT_PURPOSE = "kasbah-receipt-v1"
TICKET_PURPOSE = "kasbah-ticket-v1"
MAX_TOKEN = 64 * 1024
MAX_DOCUMENT = 1 << 20  # bytes of an answer of the API
MAX_ARCHIVE = 256 << 20  # bytes of a dossier
MAX_LIST = 4 << 20  # bytes of its list of files
MAX_INTEGER = 2**53 - 1
CLOCK_SKEW = 60  # seconds by which the clocks of two machines may differ
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|\+00:00)")
DIGEST = re.compile(r"[0-9a-f]{64}")
OUTCOMES = ("succeeded", "failed", "cancelled")

RECEIPT_FIELDS: dict[str, type] = {
    "version": int,
    "job": str,
    "attempt": int,
    "tenant": str,
    "ticket_sha256": str,
    "policy": str,
    "site": str,
    "worker": str,
    "engine": str,
    "model_digest": str,
    "prompt_tokens": int,
    "completion_tokens": int,
    "output_commitment": str,
    "outcome": str,
    "started": str,
    "finished": str,
}
TICKET_FIELDS: dict[str, type] = {
    "version": int,
    "job": str,
    "attempt": int,
    "tenant": str,
    "deployment": str,
    "policy": str,
    "data_class": str,
    "sites": list,
    "model_digest": str,
    "payload_sha256": str,
    "issued": int,
    "expires": int,
}
Keys = dict[str, Ed25519PublicKey]


class Rejected(Exception):
    """What was checked does not hold; `name` is one of the words above."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class UsageError(Exception):
    """A file or an argument is not what it must be."""


def unb64(text: str, what: str) -> bytes:
    """base64url without padding (RFC 4648 section 5), in its one spelling. Raises Rejected."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Rejected("malformed", f"the {what} is not base64url") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != text:
        raise Rejected("malformed", f"the {what} is not written as base64url writes it")
    return raw


def canonical(value: Any) -> bytes:
    """The one form that is signed: RFC 8785 without floats, integers within 2^53-1, keys in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def no_float(text: str) -> Any:
    """Refuses a number with a fraction, an exponent, NaN or Infinity."""
    raise Rejected("not_canonical", f"{text[:20]} is not an integer")


def payload_of(token: str, purpose: str, keys: Keys) -> dict[str, Any]:
    """The signed object of a token `key id . payload . signature` (Ed25519, RFC 8032). Raises Rejected."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Rejected("malformed", "a token has three parts separated by dots")
    key = keys.get(parts[0])
    if key is None:
        raise Rejected("unknown_key", f"signed by key {parts[0][:16]!r}; trusted: {', '.join(sorted(keys))}")
    body, signature = unb64(parts[1], "payload"), unb64(parts[2], "signature")
    try:
        key.verify(signature, purpose.encode("ascii") + b"\n" + body)
    except InvalidSignature as error:
        raise Rejected("bad_signature", f"the signature does not hold for {purpose}") from error
    try:
        payload = json.loads(body.decode("utf-8"), parse_float=no_float, parse_constant=no_float)
        same = canonical(payload) == body  # also refuses duplicate keys
    except (ValueError, RecursionError) as error:
        raise Rejected("not_canonical", "what was signed is not JSON") from error
    if not same:
        raise Rejected("not_canonical", "what was signed is JSON, but not in canonical form")
    if not isinstance(payload, dict):
        raise Rejected("malformed", "what was signed is not an object")
    return payload


def check_fields(payload: dict[str, Any], fields: dict[str, type], what: str) -> None:
    """Exactly these fields, of these types, version 1. Raises Rejected."""
    different = sorted(payload.keys() ^ fields.keys())
    if different:
        raise Rejected("malformed", f"a {what} of version 1 has other fields: {', '.join(different)[:200]}")
    for name, kind in fields.items():
        value = payload[name]
        if type(value) is not kind:  # bool is an int elsewhere
            raise Rejected("malformed", f"{name} of the {what} is not of type {kind.__name__}")
        if kind is int and not 0 <= value <= MAX_INTEGER:
            raise Rejected("malformed", f"{name} of the {what} is out of range")
    if payload["version"] != 1:
        raise Rejected("malformed", f"{what} version {payload['version']} is not known to this program")


def moment(text: str, name: str) -> datetime:
    """An RFC 3339 time in UTC with microseconds. Raises Rejected."""
    try:
        if TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise Rejected("malformed", f"{name} is not an RFC 3339 time in UTC with microseconds")


def verify_receipt(token: str, worker_keys: Keys) -> dict[str, Any]:
    """The receipt, when a trusted worker signed exactly this. Raises Rejected."""
    receipt = payload_of(token, RECEIPT_PURPOSE, worker_keys)
    check_fields(receipt, RECEIPT_FIELDS, "receipt")
    for name in ("ticket_sha256", "model_digest", "output_commitment"):
        if not DIGEST.fullmatch(receipt[name]):
            raise Rejected("malformed", f"{name} is not a SHA-256 in hex")
    if receipt["outcome"] not in OUTCOMES:
        raise Rejected("malformed", f"outcome is none of {', '.join(OUTCOMES)}")
    if moment(receipt["finished"], "finished") < moment(receipt["started"], "started"):
        raise Rejected("malformed", "it finished before it started")
    return receipt


def verify_ticket(token: str, control_keys: Keys, receipt: dict[str, Any]) -> dict[str, Any]:
    """The ticket, when the control plane signed it and the receipt keeps to it. Raises Rejected."""
    ticket = payload_of(token, TICKET_PURPOSE, control_keys)
    check_fields(ticket, TICKET_FIELDS, "ticket")
    if not all(isinstance(site, str) for site in ticket["sites"]):
        raise Rejected("malformed", "the ticket's sites are not a list of texts")
    if receipt["ticket_sha256"] != hashlib.sha256(token.encode("ascii")).hexdigest():
        raise Rejected("ticket_mismatch", "the receipt is about another ticket")
    for name in ("job", "attempt", "tenant", "policy", "model_digest"):
        if receipt[name] != ticket[name]:
            raise Rejected("ticket_mismatch", f"{name} is {receipt[name]} in the receipt, {ticket[name]} in the ticket")
    if receipt["site"] not in ticket["sites"]:
        raise Rejected("site_not_allowed", f"processed at {receipt['site']}, which the ticket does not allow")
    started = moment(receipt["started"], "started").timestamp()
    if started > ticket["expires"]:
        raise Rejected("ticket_expired", "processing began after the ticket had expired")
    if started < ticket["issued"] - CLOCK_SKEW:
        raise Rejected("before_ticket", "processing began before the ticket was issued")
    return ticket


def read_bytes(path: str) -> bytes:
    """A document or a dossier, or standard input for "-". Raises UsageError."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
            most = MAX_ARCHIVE if data[:2] == b"PK" else MAX_DOCUMENT
            if len(data) > MAX_DOCUMENT:
                data += file.read(most - MAX_DOCUMENT)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > most:
        raise UsageError(f"{path} is too large")
    return data


def read_text(path: str) -> str:
    """A small ASCII file, or standard input for "-". Raises UsageError."""
    return text_of(read_bytes(path), path)


def text_of(data: bytes, path: str) -> str:
    """Its text. Raises UsageError."""
    if len(data) > MAX_TOKEN or not data.isascii():
        raise UsageError(f"{path} is too large or not text")
    return data.decode("ascii").strip()


class Given:
    """What a file holds: the text of a token or of keys, or a document of the platform as it came.

    Raises UsageError, and Rejected for an archive or a document that is none.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        data = read_bytes(path)
        if data[:2] == b"PK":
            data = receipt_in(data, path)
        self.document: dict[str, Any] | None = None
        self.text = ""
        if data.lstrip()[:1] == b"{":
            self.document = document_of(data, path)
        else:
            self.text = text_of(data, path)

    def token(self, name: str) -> str:
        """The receipt or the ticket."""
        if self.document is None:
            return self.text
        found = self.document.get(name)
        if not isinstance(found, str) or len(found) > MAX_TOKEN or not found.isascii():
            raise Rejected("malformed", f"{self.path} has no {name}")
        return found

    def keys(self, of: str) -> list[str]:
        """Public keys of the workers or of the control plane ("worker", "control"), in base64."""
        if self.document is None:
            return self.text.split()
        try:
            if isinstance(self.document.get("data"), list):  # a list of keys; one that was revoked counts no more
                rows = self.document["data"]
                rows = [row for row in rows if row.get("state") not in ("revoked", "rejected", "pending")]
                rows += [former for row in rows for former in row.get("former_keys", [])]
                found = [row["public_key"] for row in rows]
            elif of == "worker":
                found = [self.document["worker"]["public_key"]]
            else:
                found = list(self.document["control_plane_keys"].values())
        except (LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path} holds no key") from error
        return [str(key) for key in found]

    @property
    def brings_keys(self) -> bool:
        """Whether it is the document of a receipt, whose keys came with what they should prove."""
        return self.document is not None and "receipt" in self.document


def document_of(data: bytes, path: str) -> dict[str, Any]:
    """An object of JSON in which no key is there twice. Raises Rejected."""
    if len(data) > MAX_DOCUMENT:
        raise Rejected("malformed", f"{path} is larger than such a document is")
    try:
        found = json.loads(data.decode("utf-8-sig"), object_pairs_hook=no_twins)
    except (ValueError, RecursionError, UsageError) as error:
        raise Rejected("malformed", f"{path} is not JSON that every program reads alike") from error
    if not isinstance(found, dict):
        raise Rejected("malformed", f"{path} is not an object of JSON")
    return found


def receipt_in(data: bytes, path: str) -> bytes:
    """The receipt's document in a dossier. An archive that can be read in two ways is refused. Raises Rejected."""
    try:
        _, disk, first, _, _, size, start, comment = struct.unpack("<4s4H2LH", data[-22:])
        if data[-22:-18] != b"PK\5\6" or disk or first or comment or size > MAX_LIST or start + size != len(data) - 22:
            raise Rejected("malformed", f"{path} is not one archive from its first byte to its last")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = archive.infolist()
            found = [one for one in files if re.fullmatch(r"dossier/receipt-[^/]+\.json", one.filename)]
            if (
                not files
                or min(one.header_offset for one in files)
                or len({one.filename for one in files}) != len(files)
            ):
                raise Rejected("malformed", f"{path} has files that not every program sees")
            if len(found) != 1:
                raise Rejected(
                    "malformed", f"{path} holds {len(found)} receipts (dossier/receipt-*.json); take one out"
                )
            if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Rejected("malformed", f"{path} is packed in a way that no dossier is")
            with archive.open(found[0]) as file:
                return file.read(MAX_DOCUMENT + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ValueError,
        LookupError,
        EOFError,
        RuntimeError,
        OverflowError,
        OSError,
    ) as error:
        raise Rejected("malformed", f"{path} is a damaged archive, or an encrypted one: {error}") from error


def read_keys(path: str, of: str = "worker") -> Keys:
    """Trusted Ed25519 public keys of a file: 32 raw bytes in base64 or base64url, one a line, or as the platform gives
    them. Raises UsageError."""
    return keys_of(given_keys(path), of)


def given_keys(path: str) -> Given:
    """A file with keys. Raises UsageError, also where it is damaged: nothing was checked."""
    try:
        return Given(path)
    except Rejected as error:
        raise UsageError(str(error)) from error


def keys_of(given: Given, of: str) -> Keys:
    """Keys by their ids. Raises UsageError."""
    keys: Keys = {}
    path = given.path
    for line in given.keys(of):
        try:
            text = line.rstrip("=").replace("+", "-").replace("/", "_")
            raw = unb64(text, "key")
            key = Ed25519PublicKey.from_public_bytes(raw)
        except (Rejected, ValueError) as error:
            raise UsageError(f"{path} holds a line that is not an Ed25519 public key in base64") from error
        keys[hashlib.sha256(raw).hexdigest()[:16]] = key
    if not keys:
        raise UsageError(f"{path} holds no key")
    return keys


def expectations(pairs: list[str]) -> dict[str, str]:
    """FIELD=VALUE pairs as a dictionary. Raises UsageError for a field that no receipt has."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name not in RECEIPT_FIELDS:
            raise UsageError(f"--expect takes FIELD=VALUE; fields are {', '.join(RECEIPT_FIELDS)}")
        found[name] = value
    return found


def check_expected(receipt: dict[str, Any], expected: dict[str, str]) -> None:
    """Each field that is asked for has the value that is asked for. Raises Rejected."""
    for name, value in expected.items():
        if str(receipt[name]) != value:
            raise Rejected("unexpected", f"{name} is {receipt[name]}, not {value}")


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two equal ones a reader could take either. Raises UsageError."""
    if len(dict(pairs)) != len(pairs):
        raise UsageError("the list of sites names something twice")
    return dict(pairs)


def read_sites(path: str) -> dict[str, str]:
    """Jurisdictions by site id: {"ID": "FR"}, or the answer of /api/sites/ as it came. Raises UsageError."""
    try:
        said = json.loads(read_text(path), object_pairs_hook=no_twins)
        rows = (
            said["data"] if isinstance(said.get("data"), list) else [{"id": k, "jurisdiction": said[k]} for k in said]
        )
        pairs = [(row["id"], row["jurisdiction"]) for row in rows]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a list of sites in JSON") from error
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise UsageError(f"{path} is not a list of sites in JSON")
    return {str(site): str(place) for site, place in no_twins(pairs).items()}


def check_place(receipt: dict[str, Any], sites: dict[str, str], allowed: list[str]) -> str:
    """The jurisdiction where it was processed, when it is an allowed one. Raises Rejected."""
    place = sites.get(receipt["site"])
    if place is None:
        raise Rejected("unknown_site", f"processed at {receipt['site']}, which the list of sites does not have")
    if allowed and place not in allowed:
        raise Rejected("wrong_jurisdiction", f"processed in {place}, not in {', '.join(allowed)}")
    return place


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Check a Kasbah receipt offline.",
        epilog=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("receipt", metavar="RECEIPT", help='receipt or document with it, "-" for standard input')
    parser.add_argument("--worker-key", metavar="FILE", help="trusted public keys of workers, one a line")
    parser.add_argument("--ticket", metavar="FILE", help="the ticket that it must be about, if it did not come with it")
    parser.add_argument("--control-key", metavar="FILE", help="trusted public keys of the control plane, one a line")
    parser.add_argument("--expect", action="append", default=[], metavar="FIELD=VALUE", help="a value it must have")
    parser.add_argument("--sites", metavar="FILE", help='your own list of sites: {"SITE ID": "FR"}, or /api/sites/')
    parser.add_argument("--jurisdiction", action="append", default=[], metavar="CODE", help="where it may have run")
    options = parser.parse_args(arguments)
    if options.jurisdiction and options.sites is None:
        parser.error("--jurisdiction needs --sites")
    if options.ticket is not None and options.control_key is None:
        parser.error("--ticket needs --control-key")
    if options.control_key is not None and options.worker_key is None:
        parser.error("--control-key needs --worker-key")
    return options


def check(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """What was found, and whether any key was given. Raises Rejected, UsageError."""
    expected = expectations(options.expect)
    given = Given(options.receipt)
    worker, control = keys_for(options.worker_key, given, "worker"), None
    if options.control_key or (
        worker.brings_keys and options.worker_key is None and "ticket" in (given.document or {})
    ):
        control = keys_for(options.control_key, given, "control")
    receipt = verify_receipt(given.token("receipt"), keys_of(worker, "worker"))
    found: dict[str, Any] = {"receipt": receipt}
    if control is not None:
        ticket = Given(options.ticket) if options.ticket else given
        if ticket.document is None and not options.ticket:
            raise UsageError("--control-key needs --ticket: this receipt came without one")
        found["ticket"] = verify_ticket(ticket.token("ticket"), keys_of(control, "control"), receipt)
    if options.sites is not None:
        found["jurisdiction"] = check_place(receipt, read_sites(options.sites), options.jurisdiction)
    check_expected(receipt, expected)
    brought = [name for name, one in (("worker", worker), ("control", control)) if one is not None and one.brings_keys]
    if brought:
        found["keys_that_came_with_a_receipt"] = brought
    return found, options.worker_key is not None


def keys_for(path: str | None, given: Given, of: str) -> Given:
    """Where keys are taken from: the file that is named, or what came with the receipt. Raises UsageError."""
    if path is None and not given.brings_keys:
        raise UsageError(f"--{of}-key is needed: no key came with the receipt")
    return given if path is None else given_keys(path)


def printable(text: str) -> str:
    """Without what a terminal would obey or turn round."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def main(arguments: list[str] | None = None) -> int:
    """Check, print what was found as JSON, and say so by the exit code."""
    options = parse(arguments)
    try:
        found, trusted = check(options)
    except Rejected as error:
        print(printable(f"{error.name}: {error}"), file=sys.stderr)
        return 1
    except UsageError as error:
        print(printable(f"usage: {error}"), file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2, sort_keys=True, ensure_ascii=True))
    if "keys_that_came_with_a_receipt" in found:
        print(
            "note: keys that came with a receipt were used; compare them with those that you got otherwise",
            file=sys.stderr,
        )
    return 0 if trusted else 3


if __name__ == "__main__":
    sys.exit(main())
