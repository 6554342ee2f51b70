"""A key in the open, for as short as can be.

Python copies bytes freely, and what it frees it does not erase. So a secret lives in one buffer that can be erased, and
what fills the buffer or computes with it does so in place, through `Secret.view`. Where bytes cannot be avoided, they
are pieces too short to be worth finding.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, Self

_BASE64_GROUP: Final = 4
_BLANKS: Final = b" \t\r\n"


class Secret:
    """A key in the open, for code that computes with it. It is not printed, logged, compared, copied or pickled.

    As a context manager it wipes itself when left; otherwise when nobody holds it any more.

    Args:
        key: copied; who has a bytearray may wipe it afterwards.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes | bytearray | memoryview) -> None:
        self._key = bytearray(len(key))
        self._key[:] = key

    @classmethod
    def random(cls, size_bytes: int, random_bytes: Callable[[int], bytes]) -> Self:
        """So many bytes that nobody has seen.

        Args:
            size_bytes: how many.
            random_bytes: gives so many bytes that nobody can guess.
        """
        secret = cls(bytes(size_bytes))
        # One at a time: Python has each single byte once and for all, so the key is nowhere else.
        for place in range(size_bytes):
            secret._key[place : place + 1] = random_bytes(1)
        return secret

    @classmethod
    def from_base64(cls, text: bytes | bytearray | memoryview) -> Self:
        """What a text of base64 means, padded as RFC 4648 has it. Blanks around it are passed over.

        Raises:
            ValueError: it is no such text. Nothing of it is repeated.
        """
        text = _without_blanks_around(memoryview(text))
        if len(text) % _BASE64_GROUP:
            raise ValueError("not base64: cut short")
        padding = next((missing for missing in (2, 1) if bytes(text[len(text) - missing :]) == b"=" * missing), 0)
        secret = cls(bytes(len(text) // _BASE64_GROUP * 3 - padding))
        for place, start in enumerate(range(0, len(text), _BASE64_GROUP)):
            room = secret.view()[3 * place : 3 * place + 3]
            try:
                room[:] = binascii.a2b_base64(text[start : start + _BASE64_GROUP], strict_mode=True)
            except ValueError:  # other characters, or padding before the end
                raise ValueError("not base64") from None
        return secret

    @classmethod
    def from_hex(cls, text: bytes | bytearray | memoryview) -> Self:
        """What hexadecimal digits mean, two a byte. Blanks around and between them are passed over.

        Raises:
            ValueError: they are no such digits. Nothing of them is repeated.
        """
        places = [place for place, character in enumerate(text) if character not in _BLANKS]
        if len(places) % 2:
            raise ValueError("not hexadecimal digits, two a byte")
        secret = cls(bytes(len(places) // 2))
        for place, (high, low) in enumerate(zip(places[::2], places[1::2], strict=True)):
            try:
                secret._key[place : place + 1] = binascii.a2b_hex(bytes((text[high], text[low])))
            except ValueError:
                raise ValueError("not hexadecimal digits, two a byte") from None
        return secret

    def reveal(self) -> bytes:
        """A copy of the key, which nobody can wipe: for what takes bytes and nothing else. Do not keep it."""
        return bytes(self._key)

    def view(self) -> memoryview:
        """The key itself, to be read or filled in place. Let go of it soon: a wiped key is zeros here too."""
        return memoryview(self._key)

    def wipe(self) -> None:
        """Overwrite the key with zeros. Copies that Python or a library has made are out of reach."""
        self._key[:] = bytes(len(self._key))

    def __len__(self) -> int:
        return len(self._key)

    def __repr__(self) -> str:
        return f"Secret({len(self._key)} bytes)"

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("a secret is not compared; hmac.compare_digest takes two views")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not for pickling or copying")

    def __del__(self) -> None:
        if hasattr(self, "_key"):  # not so if the constructor was given what is no key
            self.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()


def _without_blanks_around(text: memoryview) -> memoryview:
    start, end = 0, len(text)
    while start < end and text[start] in _BLANKS:
        start += 1
    while end > start and text[end - 1] in _BLANKS:
        end -= 1
    return text[start:end]
