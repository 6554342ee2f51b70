"""What each framing means, written as slowly and plainly as possible, to judge the framers by.

A model sees everything that was ever fed at once and decides the fate of each byte: part of a frame, passed over
because it belongs to an empty frame, noise, or still held. It keeps no state between reads and does nothing in bulk, so
it can share no mistake with a framer that does both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edge_gateway.records import Chunk


@dataclass
class Fate:
    """Where every byte of a stream ended up."""

    frames: list[bytes] = field(default_factory=list)
    frame_wire_bytes: int = 0
    """Bytes of the frames as they came over the wire, with delimiters and stuffing."""
    passed_over_bytes: int = 0
    """Bytes of empty frames."""
    noise_bytes: int = 0
    held_bytes: int = 0
    malformed: int = 0
    oversized: int = 0

    @property
    def all_bytes(self) -> int:
        return self.frame_wire_bytes + self.passed_over_bytes + self.noise_bytes + self.held_bytes

    def deliver(self, frame: bytes, wire_bytes: int) -> None:
        self.frames.append(frame)
        self.frame_wire_bytes += wire_bytes


def joined(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def cobs(chunks: list[Chunk], max_frame_bytes: int) -> Fate:
    fate = Fate()
    longest_bytes = max_frame_bytes + max_frame_bytes // 254 + 1
    piece: list[int] = []
    for byte in joined(chunks):
        if byte != 0:
            piece.append(byte)
            continue
        payload: list[int] | None = []
        blocks = list(piece)
        while blocks and payload is not None:
            code, block, blocks = blocks[0], blocks[1 : blocks[0]], blocks[blocks[0] :]
            if len(block) != code - 1:
                payload = None
            else:
                payload += block
                payload += [0] if code < 0xFF and blocks else []
        if len(piece) > longest_bytes or (payload is not None and len(payload) > max_frame_bytes):
            fate.oversized += 1
            fate.noise_bytes += len(piece) + 1
        elif payload is None:
            fate.malformed += 1
            fate.noise_bytes += len(piece) + 1
        elif not payload:
            fate.passed_over_bytes += len(piece) + 1
        else:
            fate.deliver(bytes(payload), len(piece) + 1)
        piece = []
    if len(piece) > longest_bytes:
        fate.oversized += 1
        fate.noise_bytes += len(piece)
    else:
        fate.held_bytes += len(piece)
    return fate


def slip(chunks: list[Chunk], max_frame_bytes: int) -> Fate:
    fate = Fate()
    payload: list[int] = []
    wire_bytes = 0
    escaped = broken = False
    for byte in joined(chunks):
        wire_bytes += 1
        if byte == 0xC0:
            if wire_bytes - 1 > 2 * max_frame_bytes:
                fate.oversized += 1
                fate.noise_bytes += wire_bytes
            elif broken or escaped:
                fate.malformed += 1
                fate.noise_bytes += wire_bytes
            elif len(payload) > max_frame_bytes:
                fate.oversized += 1
                fate.noise_bytes += wire_bytes
            elif not payload:
                fate.passed_over_bytes += wire_bytes
            else:
                fate.deliver(bytes(payload), wire_bytes)
            payload, wire_bytes, escaped, broken = [], 0, False, False
        elif escaped:
            escaped = False
            if byte == 0xDC:
                payload.append(0xC0)
            elif byte == 0xDD:
                payload.append(0xDB)
            else:
                broken = True
        elif byte == 0xDB:
            escaped = True
        else:
            payload.append(byte)
    if wire_bytes > 2 * max_frame_bytes:
        fate.oversized += 1
        fate.noise_bytes += wire_bytes
    else:
        fate.held_bytes += wire_bytes
    return fate


def shdlc(chunks: list[Chunk], max_frame_bytes: int) -> Fate:
    fate = Fate()
    payload: list[int] = []
    wire_bytes = 0
    escaped = broken = False
    for byte in joined(chunks):
        wire_bytes += 1
        if byte == 0x7E:
            if wire_bytes - 1 > 2 * max_frame_bytes:
                fate.oversized += 1
                fate.noise_bytes += wire_bytes
            elif broken or escaped:
                fate.malformed += 1
                fate.noise_bytes += wire_bytes
            elif len(payload) > max_frame_bytes:
                fate.oversized += 1
                fate.noise_bytes += wire_bytes
            elif not payload:
                fate.passed_over_bytes += wire_bytes
            else:
                fate.deliver(bytes(payload), wire_bytes)
            payload, wire_bytes, escaped, broken = [], 0, False, False
        elif escaped:
            escaped = False
            if byte ^ 0x20 in (0x7E, 0x7D, 0x11, 0x13):
                payload.append(byte ^ 0x20)
            else:
                broken = True
        elif byte == 0x7D:
            escaped = True
        else:
            payload.append(byte)
    if wire_bytes > 2 * max_frame_bytes:
        fate.oversized += 1
        fate.noise_bytes += wire_bytes
    else:
        fate.held_bytes += wire_bytes
    return fate


def delimited(chunks: list[Chunk], delimiter: bytes, strip: bytes, max_frame_bytes: int) -> Fate:
    """Without a start. While an oversized frame is skipped, the bytes that may be a delimiter begun are held."""
    fate = Fate()
    overlap_bytes = len(delimiter) - 1
    most_held_bytes = max_frame_bytes + len(strip) + overlap_bytes
    piece = b""
    for byte in joined(chunks):
        piece += bytes([byte])
        if not piece.endswith(delimiter):
            continue
        frame = piece.removesuffix(delimiter)
        frame = frame.removesuffix(strip)
        if len(frame) > max_frame_bytes:
            fate.oversized += 1
            fate.noise_bytes += len(piece)
        elif not frame:
            fate.passed_over_bytes += len(piece)
        else:
            fate.deliver(frame, len(piece))
        piece = b""
    if len(piece) > most_held_bytes:
        fate.oversized += 1
        fate.noise_bytes += len(piece) - overlap_bytes
        fate.held_bytes += overlap_bytes
    else:
        fate.held_bytes += len(piece)
    return fate


def started(chunks: list[Chunk], delimiter: bytes, start: bytes, strip: bytes, max_frame_bytes: int) -> Fate:
    """With a start. What may be a start or a delimiter begun is held even where no frame was begun."""
    fate = Fate()
    overlap_bytes = len(delimiter) - 1
    longest_bytes = max_frame_bytes + len(strip)
    piece = b""
    for byte in joined(chunks):
        piece += bytes([byte])
        if not piece.endswith(delimiter):
            continue
        before, found, after = piece.removesuffix(delimiter).rpartition(start)
        frame = (found + after).removesuffix(strip)
        if not found:
            fate.noise_bytes += len(piece)
        elif len(frame) > max_frame_bytes:
            fate.oversized += 1
            fate.noise_bytes += len(piece)
        else:
            fate.noise_bytes += len(before)
            fate.deliver(frame, len(piece) - len(before))
        piece = b""
    before, found, after = piece[: max(len(piece) - overlap_bytes, 0)].rpartition(start)
    if found and len(piece) - len(before) <= longest_bytes + overlap_bytes:
        fate.held_bytes += len(piece) - len(before)
    else:
        fate.held_bytes += min(len(piece), len(start) - 1 + overlap_bytes)
    fate.noise_bytes += len(piece) - fate.held_bytes
    return fate


def block(
    chunks: list[Chunk], start: bytes, end: bytes, tail_bytes: int, tail_until: bytes, max_frame_bytes: int
) -> Fate:
    fate = Fate()
    stream = joined(chunks)
    while end in stream:
        before, _, behind = stream.partition(end)
        junk, found, body = before.rpartition(start) if start else (b"", b"", before)
        if start and not found:
            fate.noise_bytes += len(before + end)
            stream = behind
            continue
        head = found + body + end
        fate.noise_bytes += len(junk)
        stream = head + behind
        tail, mark, rest = behind.partition(tail_until) if tail_until else (behind[:tail_bytes], b"", b"")
        is_whole = bool(mark) if tail_until else len(behind) >= tail_bytes
        # A tail that is not there yet may still be too long already.
        known_bytes = len(head + tail) if tail_until else len(head) + tail_bytes
        most_bytes = max_frame_bytes if is_whole or not tail_until else max_frame_bytes + len(tail_until) - 1
        if known_bytes > most_bytes or len(head) > max_frame_bytes:
            fate.oversized += 1
            fate.noise_bytes += len(head)
            stream = behind
        elif is_whole:
            fate.deliver(head + tail, len(head + tail + mark))
            stream = rest if tail_until else behind[tail_bytes:]
        else:
            fate.held_bytes = len(stream)
            return fate
    overlap_bytes = len(end) - 1
    before, found, _ = stream[: max(len(stream) - overlap_bytes, 0)].rpartition(start) if start else (b"", b"x", b"")
    if found and len(stream) - len(before) < max_frame_bytes:
        fate.held_bytes = len(stream) - len(before)
    else:
        fate.held_bytes = min(len(stream), max(len(start) - 1, 0) + overlap_bytes)
    fate.noise_bytes += len(stream) - fate.held_bytes
    return fate


def hex_text(chunks: list[Chunk], end: bytes, start: bytes, strip: bytes, max_frame_bytes: int) -> Fate:
    digits_bytes = len(start) + 2 * max_frame_bytes + len(strip)
    pieces = started(chunks, end, start, b"", digits_bytes) if start else delimited(chunks, end, b"", digits_bytes)
    fate = replace(pieces, frames=[], frame_wire_bytes=0)
    for piece in pieces.frames:
        digits = piece.removesuffix(strip)[len(start) :]
        wire_bytes = len(piece + end)
        if not digits and not start:
            fate.passed_over_bytes += wire_bytes
        elif not digits or len(digits) % 2 or any(byte not in b"0123456789abcdefABCDEF" for byte in digits):
            fate.malformed += 1
            fate.noise_bytes += wire_bytes
        elif len(digits) > 2 * max_frame_bytes:
            fate.oversized += 1
            fate.noise_bytes += wire_bytes
        else:
            fate.deliver(bytes.fromhex(digits.decode()), wire_bytes)
    return fate


def idle_gap(chunks: list[Chunk], silence_s: float, max_frame_bytes: int) -> Fate:
    fate = Fate()
    bursts: list[bytes] = []
    last_at_s = float("-inf")
    for at_s, data in chunks:
        for byte in data:
            if at_s - last_at_s >= silence_s:
                bursts.append(b"")
            bursts[-1] += bytes([byte])
            last_at_s = at_s
    for number, burst in enumerate(bursts, start=1):
        if len(burst) > max_frame_bytes:
            fate.oversized += 1
            fate.noise_bytes += len(burst)
        elif number == len(bursts):
            fate.held_bytes += len(burst)
        else:
            fate.deliver(burst, len(burst))
    return fate


def timed_bytes(chunks: list[Chunk]) -> list[tuple[float, int]]:
    return [(chunk.at_s, byte) for chunk in chunks for byte in chunk.data]


def silent_after(stream: list[tuple[float, int]], silence_s: float | None) -> list[int]:
    """The positions in `stream` that a silence comes right before, and the end of the stream."""
    if silence_s is None:
        return [len(stream)]
    pauses = [at for at in range(1, len(stream)) if stream[at][0] - stream[at - 1][0] >= silence_s]
    return [*pauses, len(stream)]


def fixed(chunks: list[Chunk], frame_bytes: int, sync: bytes, silence_s: float | None) -> Fate:
    fate = Fate()
    stream = timed_bytes(chunks)
    begin = 0
    for stop in silent_after(stream, silence_s):
        burst = bytes(byte for _, byte in stream[begin:stop])
        begin = stop
        while burst:
            head = burst[: len(sync)]
            if not sync.startswith(head):
                fate.noise_bytes += 1
                burst = burst[1:]
            elif len(burst) >= frame_bytes:
                fate.deliver(burst[:frame_bytes], frame_bytes)
                burst = burst[frame_bytes:]
            elif stop == len(stream):
                fate.held_bytes += len(burst)
                break
            else:
                fate.malformed += 1
                fate.noise_bytes += len(burst)
                break
    return fate


def length_prefixed(
    chunks: list[Chunk], sync: bytes, length_offset: int, length_adds: int, max_frame_bytes: int, silence_s: float
) -> Fate:
    """With a length field of two bytes, big endian."""
    fate = Fate()
    stream = timed_bytes(chunks)
    header_bytes = length_offset + 2
    begin = 0
    for stop in silent_after(stream, silence_s):
        burst = bytes(byte for _, byte in stream[begin:stop])
        begin = stop
        gave_up = False
        while burst:
            told_bytes = header_bytes + length_adds + int.from_bytes(burst[length_offset:header_bytes], "big")
            whole_header = len(burst) >= header_bytes
            if not sync.startswith(burst[: len(sync)]):
                fate.noise_bytes += 1
                burst = burst[1:]
            elif whole_header and told_bytes < header_bytes:
                fate.malformed += 1
                fate.noise_bytes += 1
                burst = burst[1:]
            elif whole_header and told_bytes > max_frame_bytes:
                fate.oversized += 1
                fate.noise_bytes += 1
                burst = burst[1:]
            elif whole_header and len(burst) >= told_bytes:
                fate.deliver(burst[:told_bytes], told_bytes)
                burst = burst[told_bytes:]
            elif stop == len(stream):
                fate.held_bytes += len(burst)
                break
            else:
                gave_up = True
                skipped_bytes = 1 if sync else len(burst)
                fate.noise_bytes += skipped_bytes
                burst = burst[skipped_bytes:]
        fate.malformed += gave_up
    return fate
