"""Becomes the program it is told to start, after arranging that the program ends with its parent.

Run as a script: `python -I -S child.py PARENT SIGNAL UID GID KEEP PROGRAM ARG...`. It sets things that hold
for a process only and then executes PROGRAM under the same pid:

* Linux sends SIGNAL to it when its parent dies (prctl(2), PR_SET_PDEATHSIG), so that even `kill -9` of the
  parent leaves nothing behind;
* with UID not -1 it gives up root for UID and GID, and with KEEP = 1 keeps the one capability to pass through
  and read folders (capabilities(7), CAP_DAC_READ_SEARCH, as an ambient one): so a server that refuses to
  be root reaches its files below a private folder, and nobody's folders are opened for it.

A script rather than a function run after fork: the parent may have threads, and then only exec is safe.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _become(libc: ctypes.CDLL, uid: int, gid: int, keep: bool) -> None:
    if keep:
        _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if keep:
        mask = 1 << CAP_DAC_READ_SEARCH
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        # struct __user_cap_data_struct[2]: effective, permitted, inheritable, for capabilities 0-31 and 32-63
        sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        _check(libc.capset(header, sets), "capset")
        _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0), "PR_CAP_AMBIENT")


def main(arguments: list[str]) -> None:
    """Arrange and execute; returns only by raising."""
    parent, signal_number, uid, gid, keep = (int(argument) for argument in arguments[:5])
    program = arguments[5:]
    os.umask(0o077)  # logs, append-only files, sockets: what it makes is its own account's
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if uid >= 0:
            _become(libc, uid, gid, keep == 1)
        # After the change of user: that clears the setting.
        _check(libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "PR_SET_PDEATHSIG")
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - replacing this process is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
