"""Every frame of a link, kept by a process of its own, and what is looked for in them.

    with capture(link, file) as running:
        ...
        packets, size = running.stop()
    held = Held.read(file)
    held.holding({"job": job_id.encode()})

Run as a script (`python -I capture.py LINK FILE`) it records: an AF_PACKET socket (packet(7)) sees both directions of
an interface of the root namespace, whatever the protocol. Each frame is written after its length, which has four bytes.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
LARGEST = 1 << 18  # a frame before segmentation has up to 64 KiB
BUFFER = 256 << 20
HEAD = 8  # bytes by which a place is compared with all needles at once
HOLE = 64 << 20  # a stream that jumps further is not one


class Capture:
    """A recorder that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stop(self) -> tuple[int, int]:
        """End it; frames and bytes recorded. Fails when the kernel dropped one before it was read."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=30)
        told = json.loads(output)
        assert told["dropped"] == 0, f"the kernel dropped {told['dropped']} frames: this capture proves nothing"
        return told["frames"], told["bytes"]

    def close(self) -> None:
        """Whatever state it is in."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def capture(link: str, file: Path) -> Iterator[Capture]:
    """Record `link` to `file`; it records when this returns."""
    process = subprocess.Popen([sys.executable, "-I", __file__, link, str(file)], stdout=subprocess.PIPE, text=True)
    running = Capture(process)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "recording\n", "a capture needs root (CAP_NET_RAW)"
        yield running
    finally:
        running.close()


def record(link: str, file: Path) -> dict[str, int]:
    """Until SIGTERM, and then what is still waiting."""
    ended = socket.socketpair()
    ended[1].setblocking(False)
    signal.set_wakeup_fd(ended[1].fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    told = {"frames": 0, "bytes": 0, "dropped": 0}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap, file.open("wb") as output:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        tap.bind((link, ETH_P_ALL))
        tap.setblocking(False)
        print("recording", flush=True)
        going = True
        while going:
            readable, _, _ = select.select([tap, ended[0]], [], [])
            going = ended[0] not in readable
            for frame in _waiting(tap):
                told["frames"] += 1
                told["bytes"] += len(frame)
                output.write(struct.pack("!I", len(frame)) + frame)
        statistics = tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        told["dropped"] = struct.unpack("II", statistics)[1]
    return told


def _waiting(tap: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield tap.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # the link is down, now or before it first came up
                raise


def read_frames(file: Path) -> Iterator[bytes]:
    """One after the other, from a finished recording."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


@dataclass
class Held:
    """What a link carried: all frames as they were, and the TCP streams put together (RFC 9293)."""

    frames: bytes
    streams: bytes

    @classmethod
    def read(cls, file: Path) -> Held:
        """From a finished recording."""
        frames, flows = bytearray(), Flows()
        for frame in read_frames(file):
            frames += frame
            flows.add(frame)
        return cls(bytes(frames), b"\n".join(flows.done))

    def holding(self, needles: Mapping[str, Iterable[bytes]]) -> dict[str, bytes]:
        """Those of the named needles of which a form is somewhere in it, with that form.

        Every place is compared by eight bytes with all needles at once, then in full: so 100,000 needles cost what one
        does. Each form must have at least eight bytes.
        """
        heads: dict[int, list[tuple[str, bytes]]] = {}
        for name, forms in needles.items():
            for form in forms:
                middle = (len(form) - HEAD) // 2
                (head,) = struct.unpack_from("=Q", form, middle)
                heads.setdefault(head, []).append((name, form))
        found: dict[str, bytes] = {}
        for text in (self.streams, self.frames):
            for head in _present(heads, text):
                for name, form in heads[head]:
                    if name not in found and form in text:
                        found[name] = form
        return found


def _present(heads: Mapping[int, object], text: bytes) -> set[int]:
    wanted, present = frozenset(heads), set[int]()
    for shift in range(HEAD):
        end = shift + (len(text) - shift) // HEAD * HEAD
        present |= wanted.intersection(memoryview(text)[shift:end].cast("Q"))
    return present


class Flows:
    """TCP streams of IPv4 frames, one for each direction of each connection."""

    def __init__(self) -> None:
        self.done: list[bytearray] = []
        self._open: dict[bytes, tuple[int, bytearray]] = {}

    def ports(self) -> set[int]:
        """The lower port of each connection: that of the server, where clients take theirs above 32767."""
        return {min(struct.unpack("!HH", key[8:])) for key in self._open}

    def add(self, frame: bytes) -> None:
        """A frame; what is not TCP is passed over."""
        if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != ETH_P_IP or frame[23] != socket.IPPROTO_TCP:
            return
        at = 14 + (frame[14] & 15) * 4
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        key = frame[26:34] + frame[at : at + 4]
        (sequence,) = struct.unpack_from("!I", frame, at + 4)
        begins, data = bool(frame[at + 13] & 2), frame[at + (frame[at + 12] >> 4) * 4 : end]
        if begins or key not in self._open:
            stream = bytearray()
            self._open[key] = ((sequence + begins) % 2**32, stream)
            self.done.append(stream)
        if not data:
            return
        first, stream = self._open[key]
        place = (sequence + begins - first) % 2**32
        if place < len(stream) + HOLE:
            stream.extend(bytes(max(0, place + len(data) - len(stream))))
            stream[place : place + len(data)] = data


def forms(secret: bytes, depth: int = 2) -> set[bytes]:
    """Bytes as they are, and as base64 shows them amid other bytes, in both alphabets, up to `depth` times."""
    found = {secret}
    if depth > 0:
        for shift in range(3):
            encoded = base64.b64encode(bytes(shift) + secret)
            # The first and the last characters also depend on the neighbours.
            core = encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 4]
            for text in {core, core.translate(bytes.maketrans(b"+/", b"-_"))}:
                found |= forms(text, depth - 1)
    return found


if __name__ == "__main__":
    print(json.dumps(record(sys.argv[1], Path(sys.argv[2]))), flush=True)
