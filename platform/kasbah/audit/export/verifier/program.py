"""Check an audit export of Kasbah on a machine of your own: Python 3.10 or newer, its standard library, no network.

    python3 verify.py export.zip --key 'kasbah/audit/TENANT+0a1b2c3d+AQ...'

The key is not a secret, but it must reach you by another way than the export: whoever could write the one could write
the other. What this program checks, and what no log can show, is said in VERIFY.md beside it.

Exit status: 0 all holds that was compared; 1 something does not, and its name stands in front of the message; 2 the
program was called wrongly, or a file cannot be read; 3 nothing is wrong, but the export cannot show what was asked
(receipt_not_in_export, consistency_missing). Formats: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles;
RFC 6962; RFC 8032; RFC 8785.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from contextlib import closing

from kasbah.audit.export.verifier.archive import Bundle, check_files, read_manifest, read_successions
from kasbah.audit.export.verifier.content import check_content
from kasbah.audit.export.verifier.documents import read_json
from kasbah.audit.export.verifier.dossier import check_dossier
from kasbah.audit.export.verifier.events import Events
from kasbah.audit.export.verifier.failure import MISSHAPEN, UNDECIDED, Facts, Failed, printable, readable
from kasbah.audit.export.verifier.gaps import Gap
from kasbah.audit.export.verifier.given import (
    given_event,
    given_key,
    given_receipt,
    given_successions,
    given_text,
)
from kasbah.audit.export.verifier.kept import (
    check_previous,
    check_turns,
    check_witnesses,
    read_previous,
    said_of_previous,
)
from kasbah.audit.export.verifier.log import check_log
from kasbah.audit.export.verifier.promises import check_receipts
from kasbah.audit.export.verifier.proofs import read_proof
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tree import check_inclusion, leaf_hash
from kasbah.audit.export.verifier.views import CSV, OCSF, PARQUET, REPORT


def verify_bundle(arguments: argparse.Namespace) -> list[str]:
    """Check a whole export. Returns lines to print: what was compared, what was not, and why."""
    with closing(Bundle(arguments.file)) as bundle:
        return _verified(bundle, arguments)


def _verified(bundle: Bundle, arguments: argparse.Namespace) -> list[str]:
    key = given_key(arguments.key, (1,))
    witnesses = [given_key(text, (4,)) for text in arguments.witness]
    receipts = [given_receipt(text) for text in arguments.receipt]
    keys = LogKeys(key, read_successions(bundle))
    note = bundle.text("checkpoint")
    size, root = keys.checkpoint(note)
    manifest = read_manifest(bundle, keys)
    whole = (manifest["size"], manifest["root"]) == (size, root.hex())
    if not whole or not 0 <= manifest["start"] <= manifest["end"] <= size:
        raise Failed("manifest_changed", "the manifest and the checkpoint are about different trees")
    events, pruned = check_log(bundle, manifest, root, views=not arguments.log_only)
    check_files(bundle, manifest, skip={"events.jsonl"})
    check_turns(bundle, keys, size, root)
    earlier = LogKeys(given_key(arguments.previous_key, (1,)), []) if arguments.previous_key else keys
    previous, kept = read_previous(bundle, keys, earlier, (size, root)), None
    if arguments.previous:
        text = given_text(arguments.previous, "checkpoint", "checkpoint")
        kept = earlier.checkpoint(text, "the checkpoint that was kept")
        check_previous(bundle, previous, (size, root), kept)
    witnessed = check_witnesses(note, witnesses, arguments.witnesses)
    content = check_content(bundle, manifest, events)
    content += check_dossier(bundle, keys)
    return [
        f"log        {key.name}",
        f"checkpoint {size} events, root {root.hex()}",
        *keys.shown(),
        *said_of_events(manifest, pruned, events),
        *(f"           {number:>9} {kind}" for kind, number in sorted(events.types.items())),
        *said_of_views(bundle, log_only=arguments.log_only),
        *content,
        *said_of_previous(bundle, manifest, previous, kept),
        *check_receipts(bundle, manifest, keys, events, receipts),
        *witnessed,
        "holds",
    ]


def said_of_events(manifest: Facts, pruned: list[Gap], events: Events) -> list[str]:
    """What the export shows of the log."""
    selection, shown = manifest["selection"], manifest["events"]
    place = f"({manifest['start']} to {manifest['end']} of {manifest['size']})"
    if selection["kind"] == "range":
        lines = [f"events     {shown} {place}; none changed, added or left out"]
    else:
        lines = [
            f"selection  {selection['kind']} {selection['by']}",
            f"events     {shown} {place}; each is in the log, at its place, unchanged",
            "           A selection does not show that no event was left out of it.",
        ]
    if events.first:
        lines.append(f"           the first of {readable(events.first)}, the last of {readable(events.last)}")
    gone = sum(gap.end - gap.start for gap in pruned)
    told = ", ".join(sorted({gap.event for gap in pruned}))
    return (
        [*lines, f"pruned     {gone} more were removed by a policy, as the log itself says ({told})"] if gone else lines
    )


def said_of_views(bundle: Bundle, *, log_only: bool) -> list[str]:
    """Which views were derived again and compared."""
    if log_only:
        return ["views      NOT CHECKED: the log alone"]
    there = [path for path in (CSV, OCSF, PARQUET, REPORT) if path in bundle.infos]
    lines = [f"views      say what the log says: {', '.join(there)}"] if there else ["views      none are there"]
    pages = sum(path.startswith("report/") and path != REPORT for path in bundle.infos)
    return (
        [*lines, f"           {pages} pages of the report NOT DERIVED AGAIN: as they were signed"] if pages else lines
    )


def verify_proof(arguments: argparse.Namespace) -> list[str]:
    """Check a `.tlog-proof` of one event (C2SP tlog-proof)."""
    key = given_key(arguments.key, (1,))
    index, hashes, note = read_proof(given_text(arguments.file, "proof"))
    keys = LogKeys(key, given_successions(arguments.succession))
    size, root = keys.checkpoint(note)
    data = given_event(arguments.event)
    check_inclusion(leaf_hash(data), index, size, root, hashes)
    event = read_json(data, "the event")
    shown = f" {event.get('type')} of {readable(str(event.get('time')))}," if isinstance(event, dict) else ""
    return [f"event {index} of {key.name},{shown} a log of {size} events", *keys.shown(), "holds"]


def read_count(text: str) -> int:
    """How many witnesses; never more than a note has signatures."""
    if not re.fullmatch("[0-9]{1,2}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number from 0 to 99")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="VERIFY.md says what is shown by it.")
    made.add_argument("file", help="the export (.zip); with --event a .tlog-proof, or the API's answer with the proof")
    made.add_argument(
        "--key", required=True, help="the log's key, NAME+ID+KEY, or a file with it, which you have by another way"
    )
    made.add_argument("--log-only", action="store_true", help="leave out whether the views say what the log says")
    made.add_argument("--event", help="with a .tlog-proof: file with the event's exact bytes, or the API's answer")
    made.add_argument("--previous", help="checkpoint that you kept, or the earlier export, or the API's answer")
    made.add_argument("--previous-key", help="its key, where the key was revoked since and vouches for none after it")
    made.add_argument("--succession", action="append", default=[], help="with a .tlog-proof: note of a change of keys")
    made.add_argument(
        "--receipt", action="append", default=[], help="audit receipt that a user kept, or a file with it"
    )
    made.add_argument("--witness", action="append", default=[], help="key of a witness that you know, or its file")
    made.add_argument("--witnesses", type=read_count, default=0, help="how many of them must have signed (%(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run. Returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        lines = verify_proof(arguments) if arguments.event else verify_bundle(arguments)
    except Failed as failure:
        return fail(f"{failure.name}: {failure}", 3 if failure.name in UNDECIDED else 1)
    except OSError as error:
        return fail(f"cannot read {error.filename}: {error.strerror}", 2)
    except (*MISSHAPEN, csv.Error, EOFError, MemoryError, RuntimeError) as error:  # what nobody thought of
        return fail(f"bundle_unreadable: {type(error).__name__}: {error}", 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where it is not UTF-8, a name in another script is shown
    print("\n".join(map(printable, lines)))
    return 0


def fail(message: str, status: int) -> int:
    """Say what does not hold."""
    print(printable(message[:2000]), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
