"""What a signature costs, and what of that is the price of a key that is in the TPM for that one signature only.

| Contestant | Does |
| --- | --- |
| `tpm` | the gateway's key store: load, HMAC in the session that vouches for it, flush |
| `bare` | the same three commands without that session |
| `cached` | HMAC on a key that stays loaded, without it: the limit of any TPM key store, of which three keys fit |
| `ecdsa` | the gateway's key store: a handshake's signature by the key of a certificate, on P-256 |
| `files` | the gateway's key store in files: read, decrypt, HMAC |

All TPMs are swtpm on the same machine, which is much faster than a chip; the ratios between the first three are what
carries over, and only roughly.

- `signatures_s`: one after the other.
- `cpu_ms`: of ours for each, swtpm's left out.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE

from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.keystore.tpm.public_areas import key_template, srk_template
from edge_gateway.observability.log import configure_log
from edge_gateway.testbench.virtual_tpm import VirtualTpm

Sign: TypeAlias = Callable[[], object]

_KEY: Final = bytes(range(32))
_DATA: Final = b"hub.example.com%2Fdevices%2Fboiler-3\n1800000000"
"""What a token signs, more or less."""


class _Place(NamedTuple):
    """What a contestant has to itself."""

    tcti: str
    directory: Path


@contextmanager
def _tpm(place: _Place) -> Iterator[Sign]:
    with closing(TpmKeyStore(place.directory, tcti=place.tcti)) as store:
        store.put("k", Secret(_KEY))
        yield lambda: store.sign("k", _DATA)


@contextmanager
def _ecdsa(place: _Place) -> Iterator[Sign]:
    with closing(TpmKeyStore(place.directory, tcti=place.tcti)) as store:
        key = store.create_certificate_key("c")
        yield lambda: key.sign_digest(_KEY)


@contextmanager
def _files(place: _Place) -> Iterator[Sign]:
    with closing(SoftwareKeyStore(place.directory)) as store:
        store.put("k", Secret(_KEY))
        yield lambda: store.sign("k", _DATA)


@contextmanager
def _library(place: _Place, *, is_cached: bool) -> Iterator[Sign]:
    """By the TSS's library alone."""
    with ESAPI(place.tcti) as esys:
        root_template, _ = TPM2B_PUBLIC.unmarshal(srk_template("ecc"))
        root, *_ = esys.create_primary(
            in_sensitive=TPM2B_SENSITIVE_CREATE(), in_public=root_template, primary_handle=ESYS_TR.OWNER
        )
        template, _ = TPM2B_PUBLIC.unmarshal(key_template(made_inside=True))
        made = esys.create(parent_handle=root, in_sensitive=TPM2B_SENSITIVE_CREATE(), in_public=template)
        private, public = made[0], made[1]

        def hmac(key: Any) -> None:
            esys.hmac(handle=key, buffer=_DATA, hash_alg=TPM2_ALG.SHA256)

        def load() -> Any:
            return esys.load(parent_handle=root, in_private=private, in_public=public)

        def all_three() -> None:
            key = load()
            hmac(key)
            esys.flush_context(key)

        if is_cached:
            kept = load()
            yield lambda: hmac(kept)
            esys.flush_context(kept)
        else:
            yield all_three
        esys.flush_context(root)


CONTESTANTS: Final[dict[str, Callable[[_Place], AbstractContextManager[Sign]]]] = {
    "tpm": _tpm,
    "bare": partial(_library, is_cached=False),
    "cached": partial(_library, is_cached=True),
    "ecdsa": _ecdsa,
    "files": _files,
}


def measure(name: str, count: int) -> dict[str, float]:
    """So many signatures by one contestant, with a TPM of its own.

    Args:
        name: whose.
        count: how many.
    """
    configure_log("error", as_json=False)
    return asyncio.run(_measure(name, count))


async def _measure(name: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="signatures-") as directory:
        async with VirtualTpm() as tpm:
            return await asyncio.to_thread(_time, name, _Place(tpm.tcti, Path(directory, "keys")), count)


def _time(name: str, place: _Place, count: int) -> dict[str, float]:
    with CONTESTANTS[name](place) as sign:
        sign()  # opens what it needs
        started_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(count):
            sign()
        took_s, used_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {"signatures_s": count / took_s, "cpu_ms": used_s / count * 1e3}
