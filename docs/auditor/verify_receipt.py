#!/usr/bin/env python3
"""Check a Kasbah receipt offline: which worker, at which site, with which weights, answered one request.

Needs Python 3.11 and the package `cryptography`, and nothing of Kasbah. Run it with `python -I`.
Exit code 0: everything that was asked holds. 1: it does not; the first word on standard error names why:

  malformed         not a token, or a payload that is not what a receipt or ticket holds
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

2: wrong usage, or a file that cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

RECEIPT_PURPOSE = "kasbah-receipt-v1"
TICKET_PURPOSE = "kasbah-ticket-v1"
MAX_TOKEN = 64 * 1024
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
    except (binascii.Error, ValueError) as error:
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


def read_text(path: str) -> str:
    """A small ASCII file, or standard input for "-". Raises UsageError."""
    try:
        data = sys.stdin.buffer.read(MAX_TOKEN + 1) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_TOKEN or not data.isascii():
        raise UsageError(f"{path} is too large or not text")
    return data.decode("ascii").strip()


def read_keys(path: str) -> Keys:
    """Trusted Ed25519 public keys, one a line: 32 raw bytes in base64 or base64url. Raises UsageError."""
    keys: Keys = {}
    for line in read_text(path).split():
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
    parser.add_argument("receipt", metavar="RECEIPT", help='file with the receipt, "-" for standard input')
    parser.add_argument(
        "--worker-key", required=True, metavar="FILE", help="trusted public keys of workers, one a line"
    )
    parser.add_argument("--ticket", metavar="FILE", help="the ticket that the receipt must be about")
    parser.add_argument("--control-key", metavar="FILE", help="trusted public keys of the control plane, one a line")
    parser.add_argument(
        "--expect", action="append", default=[], metavar="FIELD=VALUE", help="a field and the value it must have"
    )
    parser.add_argument("--sites", metavar="FILE", help='your own list of sites: {"SITE ID": "FR"}, or /api/sites/')
    parser.add_argument(
        "--jurisdiction", action="append", default=[], metavar="CODE", help="where it may have been processed"
    )
    options = parser.parse_args(arguments)
    if options.jurisdiction and options.sites is None:
        parser.error("--jurisdiction needs --sites")
    if (options.ticket is None) != (options.control_key is None):
        parser.error("--ticket and --control-key go together")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Check, print what was found as JSON, and say so by the exit code."""
    options = parse(arguments)
    try:
        expected = expectations(options.expect)
        receipt = verify_receipt(read_text(options.receipt), read_keys(options.worker_key))
        found: dict[str, Any] = {"receipt": receipt}
        if options.ticket is not None:
            found["ticket"] = verify_ticket(read_text(options.ticket), read_keys(options.control_key), receipt)
        if options.sites is not None:
            found["jurisdiction"] = check_place(receipt, read_sites(options.sites), options.jurisdiction)
        check_expected(receipt, expected)
    except Rejected as error:
        print(f"{error.name}: {error}", file=sys.stderr)
        return 1
    except UsageError as error:
        print(f"usage: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2, sort_keys=True, ensure_ascii=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
