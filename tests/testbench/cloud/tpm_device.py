"""The device's side of attestation by TPM: TPM 2.0 commands to swtpm, sharing no code with what it tests."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence

import pytest

from edge_gateway.testbench.virtual_tpm import VirtualTpm, find_swtpm

needs_swtpm = pytest.mark.skipif(
    find_swtpm() is None, reason="swtpm is not installed; on Debian and Ubuntu: apt-get install swtpm"
)

OWNER = 0x40000001
ENDORSEMENT = 0x4000000B
EK_HANDLE = 0x81010001
SRK_HANDLE = 0x81000001
IDENTITY_HANDLE = 0x81000100
AES_128_CFB = bytes.fromhex("0006 0080 0043")

EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret of the endorsement hierarchy, as the TCG's template has it."""
EK_ATTRIBUTES = 0x000300B2
SRK_ATTRIBUTES = 0x00030472
G_X = bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")
G_Y = bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
"""The generator of P-256: a point of which everybody knows that it is on the curve."""


def sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def parts(data: bytes) -> list[bytes]:
    """Split a row of TPM2Bs."""
    found = []
    while data:
        (size_bytes,) = struct.unpack_from(">H", data)
        found.append(data[2 : 2 + size_bytes])
        data = data[2 + size_bytes :]
    return found


def rsa_public(attributes: int, policy: bytes, modulus: bytes = bytes(256)) -> bytes:
    """TPMT_PUBLIC of a restricted decryption key; a modulus of zeros makes it a template."""
    head = struct.pack(">HHI", 0x0001, 0x000B, attributes) + sized(policy)
    return head + AES_128_CFB + struct.pack(">HHI", 0x0010, 2048, 0) + sized(modulus)


def ecc_public(attributes: int, policy: bytes, x: bytes = bytes(32), y: bytes = bytes(32)) -> bytes:
    """The same on P-256."""
    head = struct.pack(">HHI", 0x0023, 0x000B, attributes) + sized(policy)
    return head + AES_128_CFB + struct.pack(">HHH", 0x0010, 0x0003, 0x0010) + sized(x) + sized(y)


class CommandRefused(Exception):
    """The TPM answered with a response code other than success."""

    def __init__(self, code: int) -> None:
        super().__init__(f"0x{code:03x}")
        self.code = code


def session(handle: int) -> bytes:
    """A session without nonce and HMAC, kept after the command: a policy, or TPM_RS_PW with the empty password."""
    return struct.pack(">IHBH", handle, 0, 1, 0)


PASSWORD = session(0x40000009)


class TpmDevice:
    """A device whose identity is in a TPM, as DPS clients are. Keys are RSA unless said otherwise."""

    def __init__(self, tpm: VirtualTpm) -> None:
        self._tpm = tpm
        self.endorsement_key = b""
        self.storage_root_key = b""
        """Both as TPM2B_PUBLIC."""

    async def create_parents(self, *, ecc_endorsement: bool = False, ecc_storage: bool = False) -> None:
        """Make EK and SRK and persist them where clients expect them."""
        template = ecc_public if ecc_endorsement else rsa_public
        self.endorsement_key = await self.create(ENDORSEMENT, template(EK_ATTRIBUTES, EK_POLICY), EK_HANDLE)
        template = ecc_public if ecc_storage else rsa_public
        self.storage_root_key = await self.create(OWNER, template(SRK_ATTRIBUTES, b""), SRK_HANDLE)

    async def create(self, hierarchy: int, template: bytes, persistent: int) -> bytes:
        """TPM2_CreatePrimary; returns the key's TPM2B_PUBLIC."""
        sensitive = sized(sized(b"") + sized(b""))
        handle, answer = await self._handle(
            0x131, [hierarchy], sensitive + sized(template) + sized(b"") + bytes(4), [PASSWORD]
        )
        await self._persist(handle, persistent)
        return sized(parts(answer[: 2 + int.from_bytes(answer[:2], "big")])[0])

    async def take_in(self, blob: bytes) -> None:
        """Import the key of an authentication key blob and persist it in place of an older one."""
        id_object, credential_seed, duplicate, import_seed, public_area = parts(blob)[:5]
        inner_key = await self.activate_credential(id_object, credential_seed)
        private = await self.import_key(inner_key, duplicate, import_seed, public_area)
        handle, _ = await self._handle(0x157, [SRK_HANDLE], sized(private) + sized(public_area), [PASSWORD])
        with contextlib.suppress(CommandRefused):  # there is no older one
            await self._run(0x120, [OWNER, IDENTITY_HANDLE], struct.pack(">I", IDENTITY_HANDLE), [PASSWORD])
        await self._persist(handle, IDENTITY_HANDLE)

    async def activate_credential(self, id_object: bytes, encrypted_seed: bytes) -> bytes:
        """TPM2_ActivateCredential under the EK's policy; returns the secret."""
        policy, _ = await self._handle(
            0x176, [0x40000007, 0x40000007], sized(bytes(20)) + sized(b"") + struct.pack(">BHH", 1, 0x0010, 0x000B), []
        )
        try:
            await self._run(0x151, [ENDORSEMENT, policy], bytes(6) + bytes(4), [PASSWORD])
            answer = await self._run(
                0x147, [SRK_HANDLE, EK_HANDLE], sized(id_object) + sized(encrypted_seed), [PASSWORD, session(policy)]
            )
        finally:
            await self._flush(policy)
        (secret,) = parts(answer)
        return secret

    async def import_key(self, inner_key: bytes, duplicate: bytes, encrypted_seed: bytes, public_area: bytes) -> bytes:
        """TPM2_Import under the SRK; returns the key's private part as the SRK keeps it."""
        parameters = sized(inner_key) + sized(public_area) + sized(duplicate) + sized(encrypted_seed) + AES_128_CFB
        (private,) = parts(await self._run(0x156, [SRK_HANDLE], parameters, [PASSWORD]))
        return private

    async def sign(self, data: bytes) -> bytes:
        """TPM2_HMAC with the imported key; at most 1,024 bytes."""
        answer = await self._run(0x155, [IDENTITY_HANDLE], sized(data) + struct.pack(">H", 0x000B), [PASSWORD])
        (mac,) = parts(answer)
        return mac

    async def _persist(self, handle: int, persistent: int) -> None:
        await self._run(0x120, [OWNER, handle], struct.pack(">I", persistent), [PASSWORD])
        await self._flush(handle)

    async def _flush(self, handle: int) -> None:
        await self._run(0x165, [], struct.pack(">I", handle), [])

    async def _handle(
        self, code: int, handles: Sequence[int], parameters: bytes, sessions: Sequence[bytes]
    ) -> tuple[int, bytes]:
        """Run a command that answers with a handle."""
        answer = await self._exchange(code, handles, parameters, sessions)
        return int.from_bytes(answer[:4], "big"), _answer_parameters(answer[4:], sessions)

    async def _run(self, code: int, handles: Sequence[int], parameters: bytes, sessions: Sequence[bytes]) -> bytes:
        return _answer_parameters(await self._exchange(code, handles, parameters, sessions), sessions)

    async def _exchange(self, code: int, handles: Sequence[int], parameters: bytes, sessions: Sequence[bytes]) -> bytes:
        authorizations = b"".join(sessions)
        area = struct.pack(">I", len(authorizations)) + authorizations if sessions else b""
        body = b"".join(struct.pack(">I", handle) for handle in handles) + area + parameters
        tag = 0x8002 if sessions else 0x8001
        answer = await self._tpm.command(struct.pack(">HII", tag, 10 + len(body), code) + body)
        response_code = int.from_bytes(answer[6:10], "big")
        if response_code:
            raise CommandRefused(response_code)
        return answer[10:]


def _answer_parameters(answer: bytes, sessions: Sequence[bytes]) -> bytes:
    """Without the sessions' answers behind them."""
    return answer[4 : 4 + int.from_bytes(answer[:4], "big")] if sessions else answer
