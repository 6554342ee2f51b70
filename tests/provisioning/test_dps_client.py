"""The client of the provisioning service against the local one: every proof, and every no with its cause."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.provisioning.dps import ByCertificate, BySymmetricKey, DpsClient
from edge_gateway.provisioning.dps_answers import Assigned
from edge_gateway.provisioning.errors import ProvisioningError, ProvisioningRefused, ProvisioningUnavailable
from edge_gateway.provisioning.symmetric_keys import deriving, read_key, signing_with
from edge_gateway.provisioning.tls import certificate_name, tls_context
from edge_gateway.testbench import LocalAuthority, free_loopback_address
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.https import HttpsService
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    AllocationFailed,
    AllocationRequest,
    EnrolmentGroup,
    IndividualEnrolment,
    drawn_keys,
)
from tests.provisioning.conftest import Site

KEYS = drawn_keys()
OTHER_KEYS = drawn_keys()


def by(keys: SymmetricKeys) -> BySymmetricKey:
    return BySymmetricKey(signing_with(read_key(keys.primary.encode(), where="test")))


async def refusal(site: Site, proof: BySymmetricKey, **options: object) -> ProvisioningError:
    """What the client says of a registration that must not succeed."""
    async with site.client(**options) as client:  # type: ignore[arg-type]  # handed on as they are
        with pytest.raises(ProvisioningError) as caught:
            await client.register("gw-17", proof)
    assert caught.value.remedy
    return caught.value


async def test_an_individual_enrolment(site: Site) -> None:
    """The device is at the hub that the service tells, under the id of its enrolment; again, it is the same."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS, device_id="plant-3"))
    site.dps.polls = 3
    async with site.client() as client:
        for _ in range(2):
            assert await client.register("gw-17", by(KEYS)) == Assigned(site.hub.host_name, "plant-3")
    assert site.hub.identity("plant-3").primary_key == KEYS.primary


async def test_the_secondary_key_will_do(site: Site) -> None:
    """Either of an enrolment's keys is accepted, so that keys can be changed one at a time."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    async with site.client() as client:
        assert (await client.register("gw-17", by(SymmetricKeys(KEYS.secondary, "")))).device_id == "gw-17"


def test_a_derived_key() -> None:
    """The example of Azure's documentation comes out as printed there."""
    group = read_key(
        b"8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==", where="docs"
    )
    derived = deriving(signing_with(group))("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
    assert derived.reveal() == read_key(b"Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=", where="docs").reveal()


async def test_a_group(site: Site) -> None:
    """A key derived from the group's is that of one of its devices."""
    site.dps.add_group(EnrolmentGroup("gateways", KEYS))
    key: Secret = deriving(signing_with(read_key(KEYS.primary.encode(), where="test")))("a.b_c:d-1")
    async with site.client() as client:
        assert await client.register("a.b_c:d-1", BySymmetricKey(signing_with(key))) == Assigned(
            site.hub.host_name, "a.b_c:d-1"
        )


async def test_a_certificate(site: Site, tmp_path: Path) -> None:
    """The certificate of the TLS connection is the proof, and no token is sent."""
    certificate = self_signed_certificate("gw-17")
    files = certificate.write(tmp_path)
    site.dps.add_enrolment(IndividualEnrolment("gw-17", Thumbprints(certificate.sha1_thumbprint)))
    async with site.client(certificate=files) as client:
        assert (await client.register("gw-17", ByCertificate())).device_id == "gw-17"


async def test_many_at_once(site: Site) -> None:
    """One client serves any number of devices at the same time."""
    site.dps.add_group(EnrolmentGroup("gateways", KEYS))
    derive = deriving(signing_with(read_key(KEYS.primary.encode(), where="test")))
    async with site.client() as client:
        found = await asyncio.gather(
            *(client.register(f"d-{n}", BySymmetricKey(signing_with(derive(f"d-{n}")))) for n in range(20))
        )
    assert [each.device_id for each in found] == [f"d-{n}" for n in range(20)]


# What the service says no to


async def test_no_enrolment_or_a_wrong_key(site: Site) -> None:
    """Both end in 401; the error names what to compare, and does not blame the clock."""
    missing = await refusal(site, by(KEYS))
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    wrong = await refusal(site, by(OTHER_KEYS))
    for error in (missing, wrong):
        assert isinstance(error, ProvisioningRefused)
        assert "knows no such enrolment, or does not accept" in error.what
        assert "401002 Unauthorized" in error.what
        assert "Compare id scope, registration id and key" in error.remedy
        assert f"gw-17 at {site.door.address}, id scope {site.dps.id_scope}" == error.where


async def test_another_id_scope(site: Site) -> None:
    """It is named as what to compare."""
    error = await refusal(site, by(KEYS), id_scope="0ne99999999")
    assert isinstance(error, ProvisioningRefused)
    assert "Compare the id scope" in error.remedy


async def test_a_disabled_enrolment(site: Site) -> None:
    """It is told as such."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS, enabled=False))
    error = await refusal(site, by(KEYS))
    assert isinstance(error, ProvisioningRefused)
    assert "is disabled" in error.what


async def test_no_hub(site: Site) -> None:
    """The device is known and has no hub: the service's words are told."""

    def nobody(_: AllocationRequest) -> object:
        raise AllocationFailed("no room")

    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS, allocation=nobody))  # type: ignore[arg-type]  # never returns
    error = await refusal(site, by(KEYS))
    assert isinstance(error, ProvisioningRefused)
    assert "400209 Custom allocation failed: no room" in error.what
    assert "custom allocation" in error.remedy


class WrongClock:
    """A clock that is days behind."""

    trusted = True
    boot_id = "b"

    def now_ns(self) -> int:
        return 1_780_000_000 * NS_PER_S

    def uptime_ns(self) -> int:
        return 0


async def test_a_wrong_clock(site: Site) -> None:
    """A token that ended before it was sent is put down to the clock, with both times."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    error = await refusal(site, by(KEYS), clock=WrongClock())
    assert isinstance(error, ProvisioningRefused)
    assert "this box's clock is wrong" in error.what
    assert "here it is 2026-05-28T" in error.remedy


# What hinders the way


async def test_an_unknown_authority(site: Site) -> None:
    """The service's certificate is checked; by the system's authorities it cannot be."""
    client = DpsClient(
        site.dps.id_scope,
        tls=tls_context(),
        clock=WrongClock(),
        rng=random.Random(1),
        host=site.door.address,
        port=site.port,
    )
    async with client:
        with pytest.raises(ProvisioningRefused, match="cannot be trusted: ") as caught:
            await client.register("gw-17", by(KEYS))
    assert "--ca-file" in caught.value.remedy


async def test_a_name_that_does_not_resolve(site: Site) -> None:
    """It is told as such."""
    client = DpsClient("0ne1", tls=tls_context(), clock=WrongClock(), rng=random.Random(1), host="no-such-host.invalid")
    async with client:
        with pytest.raises(ProvisioningUnavailable, match="this name does not resolve"):
            await client.register("gw-17", by(KEYS))


async def test_nothing_listens(site: Site) -> None:
    """A port where nobody is, as behind a firewall that refuses."""
    client = DpsClient(
        "0ne1", tls=tls_context(), clock=WrongClock(), rng=random.Random(1), host=site.door.address, port=1
    )
    async with client:
        with pytest.raises(ProvisioningUnavailable, match="nothing listens there"):
            await client.register("gw-17", by(KEYS))


async def test_a_throttled_service(site: Site) -> None:
    """It is asked again when it wants to be, by all; nobody is refused for it."""
    site.dps.add_group(EnrolmentGroup("gateways", KEYS))
    site.dps.throttle(5)
    derive = deriving(signing_with(read_key(KEYS.primary.encode(), where="test")))
    with capture_logs() as events:
        async with site.client() as client:
            await asyncio.gather(
                *(client.register(f"d-{n}", BySymmetricKey(signing_with(derive(f"d-{n}")))) for n in range(4))
            )
    assert site.dps.statistics.throttled == 5
    assert [each["event"] for each in events].count("provisioning.throttled") == 5


async def test_patience_ends(site: Site) -> None:
    """A service that throttles for ever, and one that is never done, end in an error that says to try again."""
    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    site.dps.throttle(1_000_000)
    site.dps.retry_after_s = 1
    error = await refusal(site, by(KEYS), patience_s=0.2)
    assert isinstance(error, ProvisioningUnavailable)
    assert "was not done within 0.2 s" in error.what
    site.dps.throttle(0)
    site.dps.polls = 1_000_000
    assert isinstance(await refusal(site, by(KEYS), patience_s=0.2), ProvisioningUnavailable)


# Services that are none


@asynccontextmanager
async def other_service(
    authority: LocalAuthority, handler: Callable[[web.Request], object], tmp_path: Path
) -> AsyncIterator[DpsClient]:
    """A client of something that answers as it likes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = handler(request)
        assert isinstance(response, web.StreamResponse)
        return response

    address = free_loopback_address(random.Random())
    service = HttpsService([web.route("*", "/{path:.*}", answer)])
    await service.start()
    tls = authority.server_certificate([address]).context()
    server = await asyncio.get_running_loop().create_server(service.make_protocol, address, 0, ssl=tls)
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    try:
        async with DpsClient(
            "0ne1",
            tls=tls_context(tmp_path / "ca.pem"),
            clock=WrongClock(),
            rng=random.Random(1),
            host=address,
            port=server.sockets[0].getsockname()[1],
        ) as client:
            yield client
    finally:
        server.close()
        await service.stop()


@pytest.mark.parametrize(
    ("response", "kind", "told"),
    [
        (lambda _: web.Response(text="<html>Welcome</html>"), ProvisioningUnavailable, "log-in page"),
        (lambda _: web.Response(body=bytes(100_000)), ProvisioningUnavailable, "longer than 65536 bytes"),
        (lambda _: web.Response(status=302, headers={"Location": "https://a"}), ProvisioningRefused, r"\(302\)"),
        (lambda _: web.Response(status=403, text="no"), ProvisioningRefused, "does not accept"),
        (lambda _: web.Response(status=407), ProvisioningUnavailable, "proxy"),
        (
            lambda _: web.Response(status=400, body=b'{"errorCode":400004,"message":"Bad"}'),
            ProvisioningRefused,
            "400004",
        ),
    ],
    ids=["a log-in page", "much", "a redirection", "forbidden", "a proxy", "bad request"],
)
async def test_an_answer_that_is_none(
    authority: LocalAuthority,
    tmp_path: Path,
    response: Callable[[web.Request], object],
    kind: type[ProvisioningError],
    told: str,
) -> None:
    """Whatever answers in the service's place, the error says what to look for."""
    async with other_service(authority, response, tmp_path) as client:
        with pytest.raises(kind, match=told):
            await client.register("gw-17", by(KEYS))


async def test_faults_of_the_service_are_borne(authority: LocalAuthority, tmp_path: Path) -> None:
    """Three answers 5xx to a request are borne, each after the wait that was asked for; a fourth is told."""
    body = b'{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"d"}}'
    faults = [3]

    def answer(_: web.Request) -> web.Response:
        faults[0] -= 1
        if faults[0] >= 0:
            return web.Response(status=503, headers={"retry-after": "0"})
        return web.Response(body=body)

    async with other_service(authority, answer, tmp_path) as client:
        assert await client.register("gw-17", by(KEYS)) == Assigned("h", "d")
        faults[0] = 4
        with pytest.raises(ProvisioningUnavailable, match=r"a fault of its own \(503\)"):
            await client.register("gw-17", by(KEYS))


async def test_throttling_holds_for_all(authority: LocalAuthority, tmp_path: Path) -> None:
    """When one request is throttled, those for other devices wait as long, though nobody has told them."""
    loop = asyncio.get_running_loop()
    came_s: list[float] = []
    throttled = asyncio.Event()

    def answer(_: web.Request) -> web.Response:
        came_s.append(loop.time())
        if len(came_s) == 1:
            loop.call_soon(throttled.set)
            return web.Response(status=429, headers={"retry-after": "1"})
        return web.Response(body=b'{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"d"}}')

    with capture_logs() as events:
        async with other_service(authority, answer, tmp_path) as client, asyncio.TaskGroup() as group:
            group.create_task(client.register("first", by(KEYS)))
            await throttled.wait()
            while not events:  # noqa: ASYNC110  # the log has no event to wait for
                await asyncio.sleep(0)
            group.create_task(client.register("second", by(KEYS)))
    assert len(came_s) == 3
    assert min(came_s[1:]) - came_s[0] >= 1.0


async def test_the_requests_are_as_documented(authority: LocalAuthority, tmp_path: Path) -> None:
    """Path, version, token and body of both requests, as the REST specification has them."""
    seen: list[tuple[str, str, str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, request.headers["Authorization"], await request.read()))
        if len(seen) == 1:
            return web.Response(
                status=202, body=b'{"status":"assigning","operationId":"5.a/b"}', headers={"retry-after": "0"}
            )
        return web.Response(body=b'{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"d"}}')

    service = HttpsService([web.route("*", "/{path:.*}", answer)])
    address = free_loopback_address(random.Random())
    await service.start()
    tls = authority.server_certificate([address]).context()
    server = await asyncio.get_running_loop().create_server(service.make_protocol, address, 0, ssl=tls)
    context = ssl.create_default_context(cadata=authority.ca_pem)
    port = server.sockets[0].getsockname()[1]
    async with DpsClient(
        "0ne1", tls=context, clock=WrongClock(), rng=random.Random(1), host=address, port=port
    ) as client:
        await client.register("gw:17", by(KEYS))
    server.close()
    await service.stop()
    (method, path, token, body), (again, operation, same_token, nothing) = seen
    assert (method, path) == ("PUT", "/0ne1/registrations/gw%3A17/register?api-version=2021-06-01")
    assert body == b'{"registrationId":"gw:17"}'
    assert token.startswith("SharedAccessSignature sr=0ne1%2Fregistrations%2Fgw%3A17&sig=")
    assert token.endswith("&se=1780003600&skn=registration")
    assert (again, nothing, same_token) == ("GET", b"", token)
    assert operation == "/0ne1/registrations/gw%3A17/operations/5.a%2Fb?api-version=2021-06-01"


# The environment's proxy


async def test_a_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names is asked to connect, and TLS is with the service behind it. NO_PROXY holds."""
    asked: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        host, _, port = asked[-1].split()[1].decode().partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    site.dps.add_enrolment(IndividualEnrolment("gw-17", KEYS))
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://user:word@{proxy}")
    async with site.client() as client:
        assert (await client.register("gw-17", by(KEYS))).device_id == "gw-17"
    assert asked[0].startswith(f"CONNECT {site.door.address}:{site.port} ".encode())
    assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in asked[0]
    monkeypatch.setenv("no_proxy", site.door.address)
    async with site.client() as client:
        await client.register("gw-17", by(KEYS))
    assert len(asked) == 1
    server.close()
    await server.wait_closed()
    monkeypatch.delenv("no_proxy")
    async with site.client() as client:
        with pytest.raises(ProvisioningUnavailable, match="the proxy that the environment names") as caught:
            await client.register("gw-17", by(KEYS))
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://[", "nonsense"])
async def test_a_proxy_that_cannot_be_one(site: Site, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is told as what hinders, and not as a fault of ours."""
    for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises((ProvisioningUnavailable, ConfigError), match="proxy"):
        async with site.client() as client:
            await client.register("gw-17", by(KEYS))


# What is refused without asking


@pytest.mark.parametrize("id_scope", ["", "0ne/1", "x" * 65, "ö"])
def test_what_is_no_id_scope(id_scope: str) -> None:
    """The path of every request begins with it, so it is checked."""
    with pytest.raises(ConfigError, match="cannot be an id scope"):
        DpsClient(id_scope, tls=tls_context(), clock=WrongClock(), rng=random.Random(1))


def test_what_is_no_host() -> None:
    """A URL is not a host's name."""
    with pytest.raises(ConfigError, match="cannot be a host's name"):
        DpsClient("0ne1", tls=tls_context(), clock=WrongClock(), rng=random.Random(1), host="https://a")


async def test_what_is_no_registration_id(site: Site) -> None:
    """It is refused before anything is sent."""
    async with site.client() as client:
        with pytest.raises(ConfigError, match="cannot be a registration id"):
            await client.register("a/b", by(KEYS))


def test_files_that_are_no_certificates(tmp_path: Path, authority: LocalAuthority) -> None:
    """Missing files, files that are none, and those that do not belong together are named."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    certificate_file, key_file = self_signed_certificate("gw-17").write(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, other_key = self_signed_certificate("gw-18").write(other)
    for files, told in (
        ((tmp_path / "no.pem",), "there is no such file"),
        ((junk,), "has no certificates in PEM"),
        ((None, certificate_file, other_key), "cannot be used together"),
        ((None, junk, key_file), "cannot be used together"),
    ):
        with pytest.raises(ConfigError, match=told):
            tls_context(*files)
    key_file.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        tls_context(None, certificate_file, key_file)
    now_ns = SystemClock().now_ns()
    assert certificate_name(certificate_file, now_ns=now_ns) == "gw-17"
    with pytest.raises(ConfigError, match="and not now"):
        certificate_name(certificate_file, now_ns=0)
    with pytest.raises(ConfigError, match="is no certificate"):
        certificate_name(junk, now_ns=now_ns)
