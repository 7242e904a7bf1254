"""The witness's command: make a key, cosign a file that was carried here, or serve over HTTP."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract.printable import escaped
from inference_worker.contract.settings import SettingError, check_arguments
from kasbah.audit.log.merkle import HASH
from kasbah.audit.log.note import COSIGNATURE, Key
from kasbah.audit.witness.cosigning import Answer, Witness
from kasbah.common.numbers import whole_number

LARGEST = 64 * 1024  # bytes of a request
MAX_PORT = 65_535
PATIENCE = 10.0  # seconds that a client has for its whole request
EPILOG = """Make or show a key:  python -m kasbah.audit.witness key --name witness.example.org --state ./witness
By hand, by file:    python -m kasbah.audit.witness sign --name ... --state ./witness --log VKEY request.txt
Over HTTP:           python -m kasbah.audit.witness serve --name ... --state ./witness --log VKEY --bind 127.0.0.1:8090
"""


def main(argv: list[str] | None = None) -> int:
    """Run. Returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    try:
        check_arguments(["", *given])
        arguments = parser().parse_args(given)
        if arguments.command == "key":
            return _make_key(arguments.name, arguments.state)
        witness = _witness(arguments)
        if arguments.command == "sign":
            return _sign(witness, arguments.file)
        return _serve(witness, arguments.bind)
    except OSError as error:
        return _fail(f"{error.filename or given[0]}: {error.strerror or error}")
    except SettingError as error:
        return _fail(str(error), 2)
    except ValueError as error:  # note.BadNote is one
        return _fail(str(error))


def _fail(message: str, status: int = 1) -> int:
    """Say it, without what a terminal would obey: a name may come from a file that was carried here."""
    print(escaped(message, lines=True), file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m kasbah.audit.witness",
        description="Vouch for having seen a log grow and nothing else (C2SP tlog-witness). Run it on a machine that"
        " the log's operator does not control.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("key", "make the witness's key, if there is none, and print the verifier key to hand out"),
        ("sign", "cosign a request that was carried here as a file; prints the line to carry back"),
        ("serve", "answer add-checkpoint over HTTP"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--name", required=True, help="the witness's name, like a web address without scheme")
        command.add_argument("--state", required=True, type=Path, help="folder of its key and of what it has seen")
        if name != "key":
            command.add_argument("--log", required=True, action="append", help="verifier key of a log that it watches")
        if name == "sign":
            command.add_argument("file", type=Path, help="the request; - reads standard input")
        if name == "serve":
            command.add_argument("--bind", default="127.0.0.1:8090", metavar="HOST:PORT", help="(%(default)s)")
    return made


def _make_key(name: str, state: Path) -> int:
    """Make the key if there is none, and print its public half; once more, whenever it is asked for."""
    Key(name, COSIGNATURE, bytes(HASH))  # the name is checked before anything is written
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Ed25519PrivateKey.generate()
    new = state / f".key.{os.getpid()}.new"
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(base64.b64encode(made.private_bytes_raw()).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        (state / "key").hardlink_to(new)  # all of it or nothing, and never over another
    except FileExistsError:
        print(f"{state} has a key already: it was left as it is, and this is its public half", file=sys.stderr)
    finally:
        new.unlink(missing_ok=True)
    print(Key(name, COSIGNATURE, _private_key(state).public_key().public_bytes_raw()).vkey())
    return 0


def _private_key(state: Path) -> Ed25519PrivateKey:
    """The key of a state folder. Raises ValueError, which says what to do."""
    path = state / "key"
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(path.read_bytes()[:100], validate=False))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there; make a key with the command `key`") from error
    except ValueError as error:
        raise ValueError(f"{path} holds no key; put its copy back, or make a key in another folder") from error


def _witness(arguments: argparse.Namespace) -> Witness:
    watched: dict[str, list[Key]] = {}
    for key in map(Key.parse, arguments.log):
        watched.setdefault(key.name, []).append(key)
    return Witness(arguments.name, _private_key(arguments.state), watched, arguments.state / "seen")


def _sign(witness: Witness, path: Path) -> int:
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    answer = witness.add_checkpoint(text)
    if answer.status != 200:
        return _fail(answer.body.rstrip("\n"))
    print(answer.body, end="")
    return 0


def server(witness: Witness, bind: str) -> ThreadingHTTPServer:
    """What answers add-checkpoint at `bind` (HOST:PORT). Raises OSError, ValueError."""
    host, _, port = bind.rpartition(":")
    if not host or (number := whole_number(port, 0, MAX_PORT)) is None:
        raise ValueError(f"--bind takes HOST:PORT, such as 127.0.0.1:8090, and not {bind!r}")

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            """One request a connection, cut off when its time is up: a time-out of the socket begins anew each byte."""
            timer = threading.Timer(PATIENCE, self._cut_off)
            timer.daemon = True
            timer.start()
            try:
                super().handle()
            finally:
                timer.cancel()

        def _cut_off(self) -> None:
            with contextlib.suppress(OSError):  # it has just ended
                self.connection.shutdown(socket.SHUT_RDWR)

        def do_POST(self) -> None:
            """add-checkpoint, the one call that there is."""
            length = self.headers.get("Content-Length", "")
            if self.path != "/add-checkpoint":
                return self._send(Answer(404, "there is /add-checkpoint\n"))
            if (size := whole_number(length, 0, LARGEST)) is None:
                return self._send(Answer(413, f"a request has a length, of at most {LARGEST} bytes\n"))
            try:
                text = self.rfile.read(size).decode()
            except UnicodeDecodeError:
                return self._send(Answer(400, "not UTF-8\n"))
            try:
                answer = witness.add_checkpoint(text)
            except (OSError, ValueError) as error:  # its own folder is damaged, full or gone: nothing was signed
                self.log_error("%s", error)
                answer = Answer(500, "this witness cannot read or keep what it has seen; its keeper must look\n")
            return self._send(answer)

        def _send(self, answer: Answer) -> None:
            body = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host.strip("[]"), number), Handler)


def _serve(witness: Witness, bind: str) -> int:
    listener = server(witness, bind)
    print(f"{witness.key.vkey()} listens on {bind}", file=sys.stderr, flush=True)
    try:
        listener.serve_forever()
    except KeyboardInterrupt:
        listener.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
