"""Check an audit export of Kasbah on a machine of your own: Python 3.10 or newer, its standard library, no network.

    python3 verify.py export.zip --key 'kasbah/audit/TENANT+0a1b2c3d+AQ...'

The key is not a secret, but it must reach you by another way than the export: whoever could write the one could write
the other. What this program checks, and what no log can show, is said in VERIFY.md beside it.

Exit status: 0 all holds; 1 something does not, and its name stands in front of the message; 2 the program was called
wrongly. Formats: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles; RFC 6962; RFC 8032; RFC 8785.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path

from kasbah.audit.export.verifier.archive import Bundle, check_files, open_text, read_manifest, read_successions
from kasbah.audit.export.verifier.content import check_content
from kasbah.audit.export.verifier.dossier import check_dossier
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.gaps import Gap
from kasbah.audit.export.verifier.kept import (
    check_previous,
    check_receipts,
    check_turns,
    check_witnesses,
    read_previous,
)
from kasbah.audit.export.verifier.log import check_log
from kasbah.audit.export.verifier.notes import Key
from kasbah.audit.export.verifier.proofs import read_proof
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tree import check_inclusion, leaf_hash


def verify_bundle(arguments: argparse.Namespace) -> list[str]:
    """Check a whole export. Returns lines to print."""
    key = Key(arguments.key, types=(1,))
    bundle = Bundle(arguments.file)
    keys = LogKeys(key, read_successions(bundle))
    note = bundle.text("checkpoint")
    size, root = keys.checkpoint(note)
    manifest = read_manifest(bundle, keys)
    if manifest["size"] != size or not 0 <= manifest["start"] <= manifest["end"] <= size:
        raise Failed("manifest_changed", "the manifest and the checkpoint are about different trees")
    events, pruned = check_log(bundle, manifest, root, views=not arguments.log_only)
    check_files(bundle, manifest, skip={"events.jsonl"})
    check_turns(bundle, keys, size, root)
    earlier = LogKeys(Key(arguments.previous_key, types=(1,)), []) if arguments.previous_key else keys
    previous = read_previous(bundle, keys, earlier, (size, root))
    if arguments.previous:
        kept = earlier.checkpoint(open_text(arguments.previous), "the checkpoint that was kept")
        check_previous(bundle, previous, (size, root), kept)
    check_receipts(bundle, manifest, keys, [open_text(path).strip() for path in arguments.receipt])
    witnesses = check_witnesses(note, [Key(text, types=(4,)) for text in arguments.witness], arguments.witnesses)
    content = check_content(bundle, manifest, events)
    content += check_dossier(bundle, keys)
    return [
        f"log        {key.name}",
        *keys.shown(),
        *said_of_events(manifest, pruned),
        *(f"           {number:>9} {kind}" for kind, number in sorted(events.types.items())),
        "views      NOT CHECKED: the log alone" if arguments.log_only else "views      say what the log says",
        *content,
        f"witnesses  {witnesses} signed"
        if witnesses
        else "witnesses  UNWITNESSED: the log's own key alone vouches for it",
        "holds",
    ]


def said_of_events(manifest: Facts, pruned: list[Gap]) -> list[str]:
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
    gone = sum(gap.end - gap.start for gap in pruned)
    told = ", ".join(sorted({gap.event for gap in pruned}))
    return (
        [*lines, f"pruned     {gone} more were removed by a policy, as the log itself says ({told})"] if gone else lines
    )


def verify_proof(arguments: argparse.Namespace) -> list[str]:
    """Check a `.tlog-proof` of one event (C2SP tlog-proof)."""
    key = Key(arguments.key, types=(1,))
    index, hashes, note = read_proof(open_text(arguments.file))
    keys = LogKeys(key, [open_text(path) for path in arguments.succession])
    size, root = keys.checkpoint(note)
    leaf = leaf_hash(Path(arguments.event).read_bytes().rstrip(b"\n"))
    check_inclusion(leaf, index, size, root, hashes)
    return [f"event {index} of {key.name}, a log of {size} events", *keys.shown(), "holds"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="VERIFY.md says what is shown by it.")
    made.add_argument("file", help="the export (.zip), or a .tlog-proof with --event")
    made.add_argument("--key", required=True, help="the log's key, NAME+ID+KEY, which you have by another way")
    made.add_argument("--log-only", action="store_true", help="leave out whether the views say what the log says")
    made.add_argument("--event", help="with a .tlog-proof: file with the event's exact bytes")
    made.add_argument("--previous", help="checkpoint that you kept from an earlier export")
    made.add_argument("--previous-key", help="its key, where the key was revoked since and vouches for none after it")
    made.add_argument("--succession", action="append", default=[], help="with a .tlog-proof: note of a change of keys")
    made.add_argument("--receipt", action="append", default=[], help="file with an audit receipt that a user kept")
    made.add_argument("--witness", action="append", default=[], help="key of a witness that you know")
    made.add_argument("--witnesses", type=int, default=0, help="how many of them must have signed (%(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run. Returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        lines = verify_proof(arguments) if arguments.event else verify_bundle(arguments)
    except Failed as failure:
        print(f"{failure.name}: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (zipfile.BadZipFile, json.JSONDecodeError, KeyError, ValueError, TypeError, EOFError) as error:
        print(f"bundle_unreadable: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
