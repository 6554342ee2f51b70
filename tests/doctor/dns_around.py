"""Runs a command beside a DNS server on 127.0.0.1:53 that says the same to every question, and exits as the command.

Called as `dns_around.py ANSWER COMMAND...`, in a network namespace of its own. The answer is `nxdomain`, `servfail`, or
an IPv4 address.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading

_CODES = {"servfail": 2, "nxdomain": 3}
_HEADER = struct.Struct(">HHHHHH")
_TYPE_A = b"\0\1"


def answer(query: bytes, said: str) -> bytes:
    """The response to a query (RFC 1035, section 4)."""
    end = query.index(b"\0", _HEADER.size) + 5  # the name, its type and class
    question = query[_HEADER.size : end]
    code = _CODES.get(said, 0)
    records = b""
    if not code and question[-4:-2] == _TYPE_A:
        records = b"\xc0\x0c" + question[-4:] + struct.pack(">IH", 60, 4) + socket.inet_aton(said)
    head = _HEADER.pack(int.from_bytes(query[:2], "big"), 0x8180 | code, 1, bool(records), 0, 0)
    return head + question + records


def _serve(door: socket.socket, said: str) -> None:
    while True:
        query, asker = door.recvfrom(512)
        door.sendto(answer(query, said), asker)


if __name__ == "__main__":
    _, said, *command = sys.argv
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 53))
        threading.Thread(target=_serve, args=(door, said), daemon=True).start()
        code = subprocess.run(command, check=False).returncode
    sys.exit(code)
