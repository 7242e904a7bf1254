"""A zip that can be read in one way only (APPNOTE.TXT of PKWARE, version 6.3.10), and its files as streams.

Readers find files by the list at the end, or by the headers in front of each, and skip what they do not know. So every
byte must belong to a file or to the list, and both must say the same; an archive of which two readers could see two
is refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, Any, NamedTuple

from kasbah.audit.export.verifier.failure import Failed

END, LOCATOR, END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
LISTED_FILE, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # the value stands in the extension for large archives
DESCRIBED = 0x08  # size and checksum follow the file
FLAGS = DESCRIBED | 0x06 | 0x0800  # how well it is packed; names in UTF-8. No encryption, no patches
STORED, DEFLATED = 0, 8
MAX_FILE = 64 << 30  # bytes of one file, unpacked
RATIO = 1000  # by which a file may at most be packed; an event log packs about tenfold
MAX_FILES = 200_000
MAX_NAME = 255  # bytes
PIECE = 1 << 16  # bytes that are read at once


class Entry(NamedTuple):
    """One file: how it is packed, its checksum, its sizes in bytes, where its header and its data begin."""

    name: str
    method: int
    checksum: int
    packed: int
    size: int
    header: int
    data: int


def ambiguous(message: str) -> Failed:
    """Two readers could see two archives."""
    return Failed("zip_ambiguous", message)


def read_directory(file: IO[bytes], length: int) -> dict[str, Entry]:
    """The files of an archive of `length` bytes, in the order of the list. Raises Failed."""
    count, start, size = _end(file, length)
    if count > MAX_FILES:
        raise Failed("zip_unsafe", f"it has {count} files")
    file.seek(start)
    listed = [_listed(file) for _ in range(count)]
    if file.tell() != start + size:
        raise ambiguous("the list of files has another size than it says")
    at, found = 0, {}
    for name, fields, fixed in sorted(listed, key=lambda one: one[1][-1]):
        if fields[-1] != at:
            raise ambiguous(f"bytes {at} to {fields[-1]} belong to no file, or to two")
        found[name] = entry = _placed(file, name, fields, fixed)
        at = entry.data + entry.packed
        if fixed[1] & DESCRIBED:
            at = _described(file, entry, at)
    if at != start:
        raise ambiguous(f"bytes {at} to {start} belong to no file")
    check_names([name for name, _, _ in listed])
    return {name: found[name] for name, _, _ in listed}


def check_names(names: list[str]) -> None:
    """No name leads outside, and no two name the same file on any machine."""
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        if name[:1] == "/" or "\\" in name or ":" in name or any(one.strip(". ") != one or not one for one in parts):
            raise Failed("zip_unsafe", f"{name!r} is a folder or lies outside")
        if name.casefold() in seen:
            raise Failed("zip_unsafe", f"{name!r} is there twice")
        seen.add(name.casefold())
    for name in seen:
        if any(name[:at] in seen for at, one in enumerate(name) if one == "/"):
            raise Failed("zip_unsafe", f"{name!r} lies in a file")


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise Failed("bundle_unreadable", "the archive is cut off")
    return data


def _end(file: IO[bytes], length: int) -> tuple[int, int, int]:
    """(number of files, where their list begins, its size)."""
    at = length - END.size
    file.seek(max(at, 0))
    data = file.read(END.size)
    if len(data) < END.size or data[:4] != b"PK\5\6" or data[-2:] != b"\0\0":
        file.seek(max(length - END.size - FULL16, 0))
        if b"PK\5\6" in file.read(END.size + FULL16):
            raise ambiguous("something follows the list of files: a comment, or another archive")
        raise Failed("bundle_unreadable", "not a zip, or cut off")
    _, disk, first, here, count, size, start, _ = END.unpack(data)
    if FULL16 in (count, here) or FULL32 in (size, start):
        disk, first, here, count, size, start, at = _end64(file, at, (count, size, start))
    if disk or first or here != count or start + size != at:
        raise ambiguous("the list of files does not end where the archive ends")
    return count, start, size


def _end64(file: IO[bytes], at: int, said: tuple[int, int, int]) -> tuple[int, int, int, int, int, int, int]:
    if at < LOCATOR.size + END64.size:
        raise Failed("bundle_unreadable", "the archive is cut off")
    file.seek(at - LOCATOR.size - END64.size)
    found = END64.unpack(_read(file, END64.size))
    kind, disk, where, disks = LOCATOR.unpack(_read(file, LOCATOR.size))
    at -= LOCATOR.size + END64.size
    if (kind, disk, where, disks) != (b"PK\6\7", 0, at, 1) or found[:2] != (b"PK\6\6", END64.size - 12):
        raise ambiguous("the end of a large archive is not where it must be")
    disk, first, here, count, size, start = found[4:]
    for short, value, full in zip(said, (count, size, start), (FULL16, FULL32, FULL32)):  # noqa: B905 - three each
        if short not in (value, full):
            raise ambiguous("the archive's two ends differ")
    return disk, first, here, count, size, start, at


Fixed = tuple[int, ...]  # version, flags, method, time, date
Fields = tuple[int, int, int, int]  # checksum, packed, size, header


def _listed(file: IO[bytes]) -> tuple[str, Fields, Fixed]:
    """One entry of the list: its name, (checksum, packed, size, header), and what its header says too."""
    data = LISTED_FILE.unpack(_read(file, LISTED_FILE.size))
    kind, fixed, (checksum, packed, size) = data[0], data[2:7], data[7:10]
    name_size, extra_size, comment_size, disk = data[10:14]
    mode, header = data[15:]
    if kind != b"PK\1\2":
        raise Failed("bundle_unreadable", "the list of files is damaged")
    name = _name(_read(file, name_size))
    size, packed, header = _large(_read(file, extra_size), name, size, packed, header)
    if comment_size or disk:
        raise ambiguous(f"{name!r} has a comment, or lies elsewhere")
    if fixed[1] & ~FLAGS or fixed[2] not in (STORED, DEFLATED) or (fixed[1] & DESCRIBED and fixed[2] == STORED):
        raise Failed("zip_unsafe", f"{name!r} is encrypted, or packed in another way than exports are")
    if (mode >> 16) & 0o170000 not in (0, 0o100000) or mode & 0x10:
        raise Failed("zip_unsafe", f"{name!r} is a link or a folder")
    if size > MAX_FILE or size > RATIO * max(packed, 1024) or (fixed[2] == STORED and size != packed):
        raise Failed("zip_unsafe", f"{name!r} would unpack to {size} bytes")
    return name, (checksum, packed, size, header), fixed


def _placed(file: IO[bytes], name: str, fields: Fields, fixed: Fixed) -> Entry:
    """The file, whose own header says what the list says."""
    checksum, packed, size, header = fields
    file.seek(header)
    data = LOCAL.unpack(_read(file, LOCAL.size))
    own_name, extra = _read(file, data[9]), _read(file, data[10])
    own_size, own_packed, _ = _large(extra, name, data[8], data[7], 0)
    own = (data[6], own_packed, own_size)
    same = own == (checksum, packed, size) or (fixed[1] & DESCRIBED and own == (0, 0, 0))
    if data[0] != b"PK\3\4" or own_name != name.encode() or data[2:6] != fixed[1:] or not same:
        raise ambiguous(f"{name!r} is another file by its own header than by the list")
    return Entry(name, fixed[2], checksum, packed, size, header, file.tell())


def _described(file: IO[bytes], entry: Entry, at: int) -> int:
    """Where what follows a file ends: its checksum and sizes once more, in one of four forms."""
    file.seek(at)
    data = file.read(24)
    for mark in (b"PK\7\x08", b""):
        for form in ("<LQQ", "<LLL"):
            told = struct.pack(form, *(one & (FULL32 if form[2] == "L" else -1) for one in entry[2:5]))
            if data.startswith(mark + told):
                return at + len(mark + told)
    raise ambiguous(f"{entry.name!r} is described differently by what follows it and by the list")


def _name(data: bytes) -> str:
    """A name that every reader reads alike."""
    if len(data) > MAX_NAME or any(not 0x20 < one < 0x7F for one in data):
        raise Failed("zip_unsafe", f"a file has the name {data[:40]!r}")
    return data.decode("ascii")


def _large(extra: bytes, name: str, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and place of which some stand in the extension for large archives, which alone may be there."""
    wanted = [one == FULL32 for one in (size, packed, header)]
    if not any(wanted) and not extra:
        return size, packed, header
    length = 8 * sum(wanted)
    if not length or extra[:4] != struct.pack("<HH", 1, length) or len(extra) != 4 + length:
        raise ambiguous(f"{name!r} has an extension that some readers obey")
    values = iter(struct.unpack(f"<{sum(wanted)}Q", extra[4:]))
    size, packed, header = (next(values) if large else one for one, large in zip((size, packed, header), wanted))  # noqa: B905
    return size, packed, header


class Unpacked(io.RawIOBase):
    """A file of the archive; that it is all of it, and nothing more, is known when it has been read to its end."""

    def __init__(self, file: IO[bytes], entry: Entry) -> None:
        super().__init__()
        self._file, self._entry = file, entry
        self._at, self._left, self._size, self._checksum = entry.data, entry.packed, 0, 0
        self._inflate = zlib.decompressobj(-15) if entry.method == DEFLATED else None
        self._waiting = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Up to as many bytes as there is room for."""
        try:
            data = self._next(len(buffer))
        except zlib.error as error:
            raise Failed("bundle_unreadable", f"{self._entry.name} is damaged: {error}") from error
        self._size += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        if self._size > self._entry.size:
            raise Failed("zip_unsafe", f"{self._entry.name!r} unpacks to more than it says")
        if not data and (self._size, self._checksum) != (self._entry.size, self._entry.checksum):
            raise Failed("bundle_unreadable", f"{self._entry.name} is damaged: another size or checksum")
        buffer[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        if self._inflate is None:
            return self._packed(most)
        while not self._inflate.eof:
            given = self._waiting or self._packed(PIECE)
            data = self._inflate.decompress(given, most)
            self._waiting = self._inflate.unconsumed_tail
            if data:
                return data
            if not given:
                raise Failed("bundle_unreadable", f"{self._entry.name} is cut off")
        if self._inflate.unused_data or self._left:
            raise ambiguous(f"{self._entry.name!r} ends before its packed bytes do")
        return b""

    def _packed(self, most: int) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(min(most, self._left))
        self._at += len(data)
        self._left -= len(data)
        return data
