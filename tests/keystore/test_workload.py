"""The key of an IoT Edge module: the store against our IoT Edge host, and against hosts that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.workload import WorkloadKeyStore
from edge_gateway.keystore.workload_http import MOST_ANSWER_BYTES

from .backends import MODULE_HUB_KEY, EdgeHost

HOST_KEY = bytes(range(32))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[EdgeHost]:
    with EdgeHost(tmp_path / "w.sock", MODULE_HUB_KEY, HOST_KEY) as host:
        yield host


def store_of(
    uri: str, *, module_id: str = "sensor", generation_id: str = "g1", version: str = "2022-08-03"
) -> WorkloadKeyStore:
    return WorkloadKeyStore(
        workload_uri=uri, module_id=module_id, generation_id=generation_id, api_version=version, timeout_s=0.5
    )


def test_the_host_signs_with_the_modules_key(host: EdgeHost) -> None:
    """As the environment of the module says, with any version of the API; the key's name is fixed."""
    environment = {
        "IOTEDGE_WORKLOADURI": host.api.uri,
        "IOTEDGE_MODULEID": "sensor",
        "IOTEDGE_MODULEGENERATIONID": "g1",
    }
    for version in ({}, {"IOTEDGE_APIVERSION": "2021-12-07"}):
        store = WorkloadKeyStore.from_environment({**environment, **version})
        assert store.names() == ["module"]
        assert store.sign("module", b"x" * 5000) == hmac.digest(MODULE_HUB_KEY, b"x" * 5000, hashlib.sha256)
        store.check()


@pytest.mark.parametrize("missing", ["IOTEDGE_WORKLOADURI", "IOTEDGE_MODULEID", "IOTEDGE_MODULEGENERATIONID"])
def test_an_environment_that_is_no_modules_is_told(missing: str) -> None:
    """With the variable that is missing, and what to choose instead."""
    environment = dict.fromkeys(["IOTEDGE_WORKLOADURI", "IOTEDGE_MODULEID", "IOTEDGE_MODULEGENERATIONID"], "unix:///x")
    del environment[missing]
    with pytest.raises(ConfigError, match=f"no IoT Edge module: there is no {missing} in .*kind: tpm or software"):
        WorkloadKeyStore.from_environment(environment)


@pytest.mark.parametrize(
    "uri", ["", "w.sock", "unix://", "https://host", "http://", "http://host:x", "http://[", "ftp://h"]
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    """With one that would do."""
    with pytest.raises(
        ConfigError, match=r"no address of a workload API. unix:///var/run/iotedge/workload.sock would do"
    ):
        store_of(uri)


def test_keys_are_neither_brought_nor_taken(host: EdgeHost) -> None:
    """Each refusal says where such keys can be; another name than the module's is no key."""
    store = store_of(host.api.uri)
    calls: list[Callable[[], object]] = [
        lambda: store.put("leaf", Secret(bytes(32))),
        lambda: store.create("leaf"),
        lambda: store.remove("module"),
    ]
    for call in calls:
        with pytest.raises(KeyStoreError, match=r"IoT Edge module, whose only key is its own.*kind: tpm, or software"):
            call()
    with pytest.raises(KeyMissing, match="An IoT Edge module has one key, its own: module"):
        store.sign("gateway", b"")
    with pytest.raises(KeyStoreError, match=r"its host's and cannot be destroyed from here. Disable the edge device"):
        store.wipe()


def test_data_keys_can_be_sealed_by_the_host(host: EdgeHost, tmp_path: Path) -> None:
    """What the gateway's buffer needs works in a module too."""
    keys = SealedDataKeys(tmp_path / "data-keys", store_of(host.api.uri))
    key = keys.open(keys.create()).reveal()
    assert SealedDataKeys(tmp_path / "data-keys", store_of(host.api.uri)).open(1).reveal() == key


def test_another_module_or_generation_does_not_unseal(host: EdgeHost) -> None:
    """One made anew is told what was lost; another is told to ask for itself."""
    sealed = store_of(host.api.uri).seal(Secret(b"secret"))
    with pytest.raises(KeyStoreError, match="encrypted on another host or for an earlier identity") as caught:
        store_of(host.api.uri, generation_id="g2").unseal(sealed)
    assert not isinstance(caught.value, KeyStoreUnavailable)
    with pytest.raises(KeyStoreError, match=r"refuses: forbidden \(status 403\). Each module may only ask for itself"):
        store_of(host.api.uri, module_id="other").unseal(sealed)


def test_an_unknown_version_is_told(host: EdgeHost) -> None:
    """With the host's own words."""
    with pytest.raises(KeyStoreError, match=r"refuses: invalid api-version \(status 400\).*IOTEDGE_APIVERSION"):
        store_of(host.api.uri, version="1999-01-01").check()


def test_a_host_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """Without a socket, or with one nobody listens on: later it may work."""
    with pytest.raises(KeyStoreUnavailable, match=r"cannot be reached: No such file.*iotedge system status"):
        store_of(f"unix://{tmp_path}/none.sock").check()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    with pytest.raises(KeyStoreUnavailable, match="cannot be reached: Connection refused"):
        store_of(f"unix://{tmp_path}/left.sock").check()


# --- hosts that misbehave ---------------------------------------------------------------------------------------------


@contextmanager
def answering(address: str | tuple[str, int], respond: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """A host that answers each request with these bytes; None for never. Gives the address to ask."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                response = respond(read_request(connection))
                if response is None:
                    ended.wait(5)
                else:
                    connection.sendall(response)

    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"unix://{address}" if isinstance(address, str) else f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    [size_bytes] = [
        int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")
    ]
    while len(body) < size_bytes:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_old_hosts_are_asked_by_tcp() -> None:
    """At `http://host:port` the request is the same."""
    requests: list[bytes] = []

    def respond(request: bytes) -> bytes:
        requests.append(request)
        return http(orjson.dumps({"digest": "A" * 43 + "="}))

    with answering(("127.0.0.1", 0), respond) as uri:
        assert store_of(uri).sign("module", b"") == bytes(32)
    assert requests[0].startswith(b"POST /modules/sensor/genid/g1/sign?api-version=2022-08-03 HTTP/1.1\r\n")


MISBEHAVIOURS: dict[str, tuple[bytes | None, type[KeyStoreError], str]] = {
    "cuts off": (b"", KeyStoreUnavailable, "cut the request off; it may have too many at once"),
    "stays silent": (None, KeyStoreUnavailable, "does not answer in time"),
    "speaks no HTTP": (b"SSH-2.0-x\r\n", KeyStoreError, "what is no HTTP"),
    "is cut in its answer": (http(b"x" * 50)[:-10], KeyStoreError, "no digest in base64"),
    "sends no JSON": (http(b"hello"), KeyStoreError, "no digest in base64"),
    "sends a list": (http(b"[]"), KeyStoreError, "no digest in base64"),
    "sends no digest": (http(b"{}"), KeyStoreError, "no digest in base64"),
    "sends a number": (http(b'{"digest": 5}'), KeyStoreError, "no digest in base64"),
    "sends no base64": (http('{"digest": "é==="}'.encode()), KeyStoreError, "no digest in base64"),
    "sends a short digest": (http(b'{"digest": "AAAA"}'), KeyStoreError, "a digest of 3 bytes"),
    "sends too much": (http(b"x" * (MOST_ANSWER_BYTES + 1)), KeyStoreError, f"more than {MOST_ANSWER_BYTES} bytes"),
    "fails": (http(b'{"message": "no key service"}', "500 x"), KeyStoreUnavailable, r"no key service \(status 500\)"),
    "fails silently": (http(b"", "503 x"), KeyStoreUnavailable, r"no reason given \(status 503\)"),
    "refuses": (http(b"[]", "404 x"), KeyStoreError, r"no reason given \(status 404\)"),
}


@pytest.mark.parametrize("how", MISBEHAVIOURS)
def test_a_host_that_misbehaves_is_an_error(tmp_path: Path, how: str) -> None:
    """Of the kind that says whether to try again, in bounded time, with the host's address."""
    response, kind, words = MISBEHAVIOURS[how]
    with (
        answering(str(tmp_path / "w.sock"), lambda _: response) as uri,
        pytest.raises(KeyStoreError, match=words) as error,
    ):
        store_of(uri).sign("module", b"")
    assert isinstance(error.value, KeyStoreUnavailable) == (kind is KeyStoreUnavailable)
    assert error.value.where == uri


def test_a_host_in_trouble_is_not_taken_for_damage(tmp_path: Path) -> None:
    """If it can decrypt nothing at all, what was sealed may be well."""
    sealed = b"EGE\x01" + bytes(40)
    failing = http(b'{"message": "no key service"}', "500 x")
    with answering(str(tmp_path / "w.sock"), lambda _: failing) as uri, pytest.raises(KeyStoreUnavailable):
        store_of(uri).unseal(sealed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(body=st.binary(max_size=80), framed=st.booleans())
def test_any_answer_is_a_value_or_an_error(tmp_path: Path, body: bytes, framed: bool) -> None:
    """Whatever bytes come back, in an HTTP answer or instead of one."""
    path = tmp_path / "any.sock"
    path.unlink(missing_ok=True)
    response = http(body) if framed else body
    with answering(str(path), lambda _: response) as uri:
        for call in (
            lambda: store_of(uri).sign("module", b""),
            lambda: store_of(uri).unseal(b"EGE\x01" + bytes(40)),
            lambda: store_of(uri).seal(Secret(b"x")),
        ):
            with pytest.raises(KeyStoreError):
                call()
