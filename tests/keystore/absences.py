"""The ways in which what a key store works with can be away for a while, each with how it goes and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.workload import WorkloadKeyStore

from .backends import MODULE_HUB_KEY, EdgeHost, software_with_wrapping_file

_Act: TypeAlias = Callable[[], object]
Absence: TypeAlias = Callable[[Path], AbstractContextManager[tuple[KeyStore, _Act, _Act]]]
"""Opens a store on a directory; with it come what takes it away, and what brings it back."""


@contextmanager
def stick_pulled(directory: Path) -> Iterator[tuple[KeyStore, _Act, _Act]]:
    given, away = directory / "given-key", directory / "in-a-pocket"
    with software_with_wrapping_file(directory) as store:
        yield store, lambda: given.rename(away), lambda: away.rename(given)


@contextmanager
def tpm_off(directory: Path) -> Iterator[tuple[KeyStore, _Act, _Act]]:
    from .tpm.backend import BlockingTpm, why_not

    if why_not():
        pytest.skip(why_not())
    from edge_gateway.keystore.tpm import TpmKeyStore

    with BlockingTpm(directory / "tpm") as tpm:
        store = TpmKeyStore(directory / "keys", tcti=tpm.tcti)
        yield store, tpm.kill, tpm.restart
        store.close()


@contextmanager
def other_boot(directory: Path) -> Iterator[tuple[KeyStore, _Act, _Act]]:
    from .tpm.backend import BlockingTpm, why_not

    if why_not():
        pytest.skip(why_not())
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from edge_gateway.keystore.tpm import BootPolicy, TpmKeyStore
    from edge_gateway.keystore.tpm.boot_approvals import approve, written

    from .tpm.stranger import Stranger

    maker = ec.generate_private_key(ec.SECP256R1())
    (directory / "release.pem").write_bytes(
        maker.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (directory / "approvals.json").write_bytes(written([approve({7: bytes(32)}, maker)]))
    policy = BootPolicy.read(directory / "release.pem", directory / "approvals.json", [7])

    with BlockingTpm(directory / "tpm") as tpm:

        def boot_otherwise() -> None:
            tpm.restart()
            with Stranger(tpm) as boot:
                boot.measure(7, b"a kernel that nobody has approved")

        store = TpmKeyStore(directory / "keys", tcti=tpm.tcti, boot_policy=policy)
        yield store, boot_otherwise, tpm.restart
        store.close()


@contextmanager
def edge_host_down(directory: Path) -> Iterator[tuple[KeyStore, _Act, _Act]]:
    socket = directory / "w.sock"
    with ExitStack() as running:

        def start() -> None:
            running.enter_context(EdgeHost(socket, MODULE_HUB_KEY, bytes(range(32))))

        start()
        store = WorkloadKeyStore(workload_uri=f"unix://{socket}", module_id="sensor", generation_id="g1")
        yield store, running.close, start


AWAY: Final[Mapping[str, Absence]] = {
    "software: the stick is pulled": stick_pulled,
    "tpm: off": tpm_off,
    "tpm: another boot": other_boot,
    "workload: the host is down": edge_host_down,
}
"""A software store with a wrapping key of its own is not among them: it cannot be away, only broken."""
