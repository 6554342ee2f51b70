"""Where devices upload files to: what is kept, who may write it, and how storage SDKs do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.https import HttpsService
from edge_gateway.testbench.cloud.storage import rest as blob_rest
from edge_gateway.testbench.cloud.storage.blob_store import (
    MAX_BLOCKS,
    MAX_OPEN_UPLOADS,
    BlobStore,
    StorageRefused,
    Upload,
    UploadLimitReached,
    UploadNotFound,
)
from edge_gateway.testbench.cloud.storage.rest import parse_block_list, parse_range

from .https_peers import http_client, served
from .mqtt_client import soon


class SetClock(SystemClock):
    """A wall clock that stands still until it is set."""

    def __init__(self, now_s: float = 1_800_000_000) -> None:
        super().__init__()
        self.now_s = now_s

    def now_ns(self) -> int:
        return int(self.now_s * NS_PER_S)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def blobs(clock: SetClock) -> BlobStore:
    return BlobStore(host_name="files.example", clock=clock, rng=random.Random(1))


def query_of(upload: Upload) -> dict[str, str]:
    return dict(parse_qsl(upload.sas_query.removeprefix("?")))


def block_id(number: int) -> str:
    return base64.b64encode(b"%04d" % number).decode()


def refused_with(code: str) -> Any:
    return pytest.raises(StorageRefused, check=lambda error: error.code == code)


# Uploads


def test_upload(blobs: BlobStore, clock: SetClock) -> None:
    """An upload that went well is a notification with everything about the blob."""
    upload = blobs.begin_upload("dev", "a b/c.txt")
    assert (upload.host_name, upload.container, upload.blob_name) == ("files.example", "uploads", "dev/a b/c.txt")
    blobs.put("dev/a b/c.txt", b"12345")
    clock.now_s += 1
    notification = blobs.end_upload("dev", upload.correlation_id, success=True)
    assert notification is not None
    assert list(blobs.file_notifications) == [notification]
    assert notification.blob_uri == "https://files.example/uploads/dev/a%20b/c.txt"
    assert notification.size_bytes == 5
    assert notification.enqueued_ns - notification.last_updated_ns == NS_PER_S


def test_failed_upload(blobs: BlobStore) -> None:
    """An upload that failed notifies nobody and frees its place, and its blocks."""
    upload = blobs.begin_upload("dev", "x")
    blobs.put_block("dev/x", block_id(1), b"1")
    assert blobs.end_upload("dev", upload.correlation_id, success=False) is None
    assert (blobs.open_uploads, list(blobs.file_notifications)) == ([], [])
    with refused_with("InvalidBlockList"):
        blobs.put_block_list("dev/x", [block_id(1)])


def test_ended_twice(blobs: BlobStore) -> None:
    """An upload ends once, and only by its own device."""
    upload = blobs.begin_upload("dev", "x")
    with pytest.raises(UploadNotFound):
        blobs.end_upload("other", upload.correlation_id, success=False)
    blobs.end_upload("dev", upload.correlation_id, success=False)
    with pytest.raises(UploadNotFound):
        blobs.end_upload("dev", upload.correlation_id, success=False)


def test_success_without_a_blob(blobs: BlobStore) -> None:
    """Success is not believed as long as there is no blob; the upload stays open."""
    upload = blobs.begin_upload("dev", "x")
    with refused_with("BlobNotFound"):
        blobs.end_upload("dev", upload.correlation_id, success=True)
    assert blobs.open_uploads == [upload]


def test_places(blobs: BlobStore, clock: SetClock) -> None:
    """A device has ten places; an upload nobody ends frees its own with the query's end."""
    for number in range(MAX_OPEN_UPLOADS):
        blobs.begin_upload("dev", str(number))
    blobs.begin_upload("other", "x")
    with pytest.raises(UploadLimitReached):
        blobs.begin_upload("dev", "one more")
    clock.now_s += 3599
    with pytest.raises(UploadLimitReached):
        blobs.begin_upload("dev", "one more")
    clock.now_s += 1
    blobs.begin_upload("dev", "one more")
    assert [upload.blob_name for upload in blobs.open_uploads] == ["dev/one more"]


def test_queries_in_force(blobs: BlobStore, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries are limited, too: they are good until their end, whether their upload is over or not."""
    monkeypatch.setattr("edge_gateway.testbench.cloud.storage.blob_store.MAX_QUERIES", 3)
    for number in range(3):
        upload = blobs.begin_upload("dev", str(number))
        blobs.end_upload("dev", upload.correlation_id, success=False)
    blobs.begin_upload("dev", "1")  # the same blob again is no new one
    with pytest.raises(UploadLimitReached):
        blobs.begin_upload("dev", "3")
    clock.now_s += 3600
    blobs.begin_upload("dev", "3")


@pytest.mark.parametrize("name", ["", "x" * 1021, "a\nb", "a.", "a/", "\ud800"])
def test_names(blobs: BlobStore, name: str) -> None:
    """Names that Azure would not have, or cannot be written, are refused."""
    with pytest.raises(BenchError, match="not a blob name"):
        blobs.begin_upload("dev", name)


def test_repr_hides_the_query(blobs: BlobStore) -> None:
    """Who prints an upload does not give its rights away."""
    assert "sig" not in repr(blobs.begin_upload("dev", "x"))


# Signed queries


def test_query(blobs: BlobStore) -> None:
    """A query allows reading and writing its blob, and nothing else."""
    query = query_of(blobs.begin_upload("dev", "x"))
    for permission in "rw":
        blobs.check_sas("dev/x", query, permission)
    with refused_with("AuthorizationPermissionMismatch"):
        blobs.check_sas("dev/x", query, "d")
    for other in ("dev/y", "other/x", "dev/x/", ""):
        with refused_with("AuthenticationFailed"):
            blobs.check_sas(other, query, "r")


def test_query_ends(blobs: BlobStore, clock: SetClock) -> None:
    """A query is good until its end, and not at it."""
    query = query_of(blobs.begin_upload("dev", "x"))
    clock.now_s += 3599.9
    blobs.check_sas("dev/x", query, "w")
    clock.now_s += 0.1
    with refused_with("AuthenticationFailed"):
        blobs.check_sas("dev/x", query, "w")


@pytest.mark.parametrize("part", ["sv", "sr", "sp", "se", "sig"])
def test_query_cannot_be_changed(blobs: BlobStore, part: str) -> None:
    """Each part of a query is signed; changed or left out, it allows nothing."""
    query = query_of(blobs.begin_upload("dev", "x"))
    for wrong in ({**query, part: "9999-12-31T23:59:59Z"}, {key: query[key] for key in query if key != part}):
        with refused_with("AuthenticationFailed"):
            blobs.check_sas("dev/x", wrong, "r")


def test_another_store(blobs: BlobStore) -> None:
    """A query of one storage is worth nothing at another."""
    with refused_with("AuthenticationFailed"):
        BlobStore().check_sas("dev/x", query_of(blobs.begin_upload("dev", "x")), "r")


@given(st.dictionaries(st.sampled_from(["sv", "sr", "sp", "se", "sig"]), st.text(max_size=30)), st.text(max_size=20))
def test_arbitrary_queries(query: dict[str, str], name: str) -> None:
    """Any query that is not ours is refused, with no other error."""
    with refused_with("AuthenticationFailed"):
        BlobStore().check_sas(name, query, "r")


# Blobs


@pytest.fixture(params=["memory", "directory"])
def any_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore(
        directory=tmp_path / "blobs" if request.param == "directory" else None,
        max_blob_bytes=100_000,
        max_store_bytes=200_000,
    )


def test_put(any_blobs: BlobStore) -> None:
    """A blob is what was written last, with a new etag each time."""
    first = any_blobs.put("dev/x", b"first")
    second = any_blobs.put("dev/x", b"second one", "text/plain")
    assert any_blobs.read("dev/x") == b"second one"
    assert any_blobs.blob("dev/x") == second
    assert (any_blobs.names, first.etag == second.etag) == (["dev/x"], False)
    assert second.read(2, 5) == b"con"


def test_remove(any_blobs: BlobStore) -> None:
    """A blob that is removed is gone and gives its room back."""
    for _ in range(3):
        any_blobs.put("dev/x", bytes(100_000))
        any_blobs.remove("dev/x")
    assert "dev/x" not in any_blobs
    with refused_with("BlobNotFound"):
        any_blobs.remove("dev/x")


def test_blocks(any_blobs: BlobStore) -> None:
    """A blob is made of blocks in the list's order; what is left out is dropped."""
    for number in range(4):
        any_blobs.put_block("dev/x", block_id(number), b"%d" % number * 3)
    any_blobs.put_block("dev/x", block_id(1), b"changed")
    any_blobs.put_block_list("dev/x", [block_id(2), block_id(1), block_id(2)])
    assert any_blobs.read("dev/x") == b"222changed222"
    with refused_with("InvalidBlockList"):
        any_blobs.put_block_list("dev/x", [block_id(3)])
    assert any_blobs.put_block_list("dev/x", []).size_bytes == 0


@pytest.mark.parametrize("wrong", ["", "?", "YQ", base64.b64encode(bytes(65)).decode(), "ä"])
def test_block_ids(blobs: BlobStore, wrong: str) -> None:
    """A block's id is 1 to 64 bytes in base64."""
    with refused_with("InvalidQueryParameterValue"):
        blobs.put_block("dev/x", wrong, b"")


def test_block_ids_are_alike(blobs: BlobStore) -> None:
    """A blob's block ids have one length."""
    blobs.put_block("dev/x", block_id(1), b"")
    with refused_with("InvalidBlobOrBlock"):
        blobs.put_block("dev/x", "YQ==", b"")


def test_blob_limit(any_blobs: BlobStore) -> None:
    """A blob over the limit is refused, whole or in blocks, and what was there stays."""
    any_blobs.put("dev/x", bytes(100_000))
    with refused_with("RequestBodyTooLarge"):
        any_blobs.put("dev/x", bytes(100_001))
    any_blobs.put_block("dev/x", block_id(1), bytes(60_000))
    with refused_with("RequestBodyTooLarge"):
        any_blobs.put_block_list("dev/x", [block_id(1), block_id(1)])
    assert any_blobs.blob("dev/x").size_bytes == 100_000
    assert any_blobs.put_block_list("dev/x", [block_id(1)]).size_bytes == 60_000


def test_store_limit(any_blobs: BlobStore) -> None:
    """The sum of everything has a limit, to which empty things count as well."""
    any_blobs.put("dev/a", bytes(100_000))
    any_blobs.put_block("dev/b", block_id(1), bytes(90_000))
    with refused_with("RequestBodyTooLarge"):
        any_blobs.put("dev/c", bytes(20_000))
    any_blobs.put("dev/a", b"")
    for number in range(200):
        try:
            any_blobs.put(f"dev/{number}", b"")
        except StorageRefused:
            break
    else:
        pytest.fail("empty blobs come without end")


def test_room_while_it_arrives(blobs: BlobStore) -> None:
    """What is on its way has its room, and gives it back if it does not come."""
    small = BlobStore(max_store_bytes=10_000)
    with small.reserved("dev/x", 6_000), refused_with("RequestBodyTooLarge"):
        small.check_room("dev/y", 6_000)
    small.check_room("dev/y", 6_000)


def test_blocks_end_with_the_query(blobs: BlobStore, clock: SetClock) -> None:
    """Blocks that nobody makes a blob of are dropped when their query ends, even after the upload has."""
    upload = blobs.begin_upload("dev", "x")
    blobs.end_upload("dev", upload.correlation_id, success=False)
    blobs.put_block("dev/x", block_id(1), bytes(50 * 1024 * 1024))
    clock.now_s += 3600
    for number in range(3):
        blobs.put(f"dev/{number}", bytes(60 * 1024 * 1024))
    with refused_with("InvalidBlockList"):
        blobs.put_block_list("dev/x", [block_id(1)])


def test_directory(tmp_path: Path) -> None:
    """Given a directory, each blob is a file in it, named so that a person finds it and nothing else is met."""
    blobs = BlobStore(directory=tmp_path / "blobs")
    for name in ("dev/../../etc/passwd", "../x", "dev/a b%2F"):
        blobs.put(name, name.encode())
    files = sorted(path.name for path in (tmp_path / "blobs").iterdir())
    assert files == ["..%2Fx", "dev%2F..%2F..%2Fetc%2Fpasswd", "dev%2Fa%20b%252F"]
    with pytest.raises(BenchError, match="not a blob name"):
        blobs.begin_upload("dev", "ü" * 100)


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A blob that cannot be kept is the storage's error, and its blocks are still there."""
    (tmp_path / "file").write_text("no directory")
    blobs = BlobStore(directory=tmp_path / "file")
    blobs.put_block("dev/x", block_id(1), b"1")
    for _ in range(2):
        with refused_with("InternalError"):
            blobs.put_block_list("dev/x", [block_id(1)])


# The calls


def signed(blobs: BlobStore, name: str = "x") -> str:
    upload = blobs.begin_upload("dev", name)
    return f"/uploads/dev/{name}{upload.sas_query}"


@pytest.fixture
async def client(blobs: BlobStore) -> AsyncIterator[aiohttp.ClientSession]:
    async with http_client(blob_rest.routes(blobs)) as client:
        yield client


BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}


def url(path: str) -> URL:
    return URL(path, encoded=True)


async def code_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """Status and code, which the body and a header agree on."""
    code = response.headers["x-ms-error-code"]
    assert f"<Code>{code}</Code>" in await response.text()
    return response.status, code


async def test_put_and_get(blobs: BlobStore, client: aiohttp.ClientSession) -> None:
    """What was put is what one gets, with etag, date, type and MD5."""
    path = url(signed(blobs))
    headers = {**BLOCK_BLOB, "x-ms-blob-content-type": "text/plain", "x-ms-version": "2024-11-04"}
    put = await client.put(path, data=b"content", headers={**headers, "x-ms-client-request-id": "7"})
    assert put.status == 201
    assert (put.headers["x-ms-version"], put.headers["x-ms-client-request-id"]) == ("2024-11-04", "7")
    assert put.headers["Content-MD5"] == base64.b64encode(hashlib.md5(b"content").digest()).decode()
    get = await client.get(path)
    assert (get.status, await get.read()) == (200, b"content")
    assert (get.headers["ETag"], get.headers["Content-Type"]) == (put.headers["ETag"], "text/plain")
    assert get.headers["Last-Modified"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    head = await client.head(path)
    assert (head.status, head.headers["Content-Length"], await head.read()) == (200, "7", b"")


async def test_range(blobs: BlobStore, client: aiohttp.ClientSession) -> None:
    """A part of a blob can be had."""
    path = url(signed(blobs))
    blobs.put("dev/x", b"0123456789")
    part = await client.get(path, headers={"x-ms-range": "bytes=2-4"})
    assert (part.status, await part.read(), part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    beyond = await client.get(path, headers={"Range": "bytes=10-"})
    assert await code_of(beyond) == (416, "InvalidRange")


@pytest.mark.parametrize(
    ("method", "query", "headers", "body", "status", "code"),
    [
        ("PUT", "", {}, b"x", 400, "InvalidHeaderValue"),
        ("PUT", "", {"x-ms-blob-type": "PageBlob"}, b"x", 400, "InvalidHeaderValue"),
        ("PUT", "", {**BLOCK_BLOB, "Content-MD5": "d3Jvbmc="}, b"x", 400, "Md5Mismatch"),
        ("PUT", "", {**BLOCK_BLOB, "If-Match": '"old"'}, b"x", 404, "BlobNotFound"),
        ("PUT", "&comp=lease", {}, b"", 400, "InvalidQueryParameterValue"),
        ("PUT", "&comp=block", {}, b"x", 400, "InvalidQueryParameterValue"),
        ("PUT", "&comp=blocklist", {}, b"<BlockList>", 400, "InvalidXmlDocument"),
        ("PUT", "&comp=blocklist", {}, b"<BlockList><Latest>eA==</Latest></BlockList>", 400, "InvalidBlockList"),
        ("GET", "", {}, None, 404, "BlobNotFound"),
    ],
)
async def test_bad_calls(
    blobs: BlobStore,
    client: aiohttp.ClientSession,
    method: str,
    query: str,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
    code: str,
) -> None:
    """A call that cannot be done is refused by the name Azure Storage has for it."""
    path = url(f"{signed(blobs)}{query}")
    response = await client.request(method, path, headers=headers, data=body)
    assert await code_of(response) == (status, code)
    assert blobs.names == []


async def test_not_signed(blobs: BlobStore, client: aiohttp.ClientSession) -> None:
    """Without a query that allows it, nothing is written or read."""
    path = signed(blobs)
    blobs.put("dev/x", b"secret")
    for wrong in (path.partition("?")[0], path.replace("sp=rw", "sp=rwd"), path.replace("/x?", "/y?")):
        assert await code_of(await client.put(url(wrong), data=b"y", headers=BLOCK_BLOB)) == (
            403,
            "AuthenticationFailed",
        )
        assert await code_of(await client.get(url(wrong))) == (403, "AuthenticationFailed")
    read_only = f"/uploads/dev/x{blobs.sas_query('dev/x', 2_000_000_000, 'r')}"
    assert (await client.get(url(read_only))).status == 200
    response = await client.put(url(read_only), data=b"y", headers=BLOCK_BLOB)
    assert await code_of(response) == (403, "AuthorizationPermissionMismatch")
    assert blobs.read("dev/x") == b"secret"


async def test_conditions(blobs: BlobStore, client: aiohttp.ClientSession) -> None:
    """A blob that is there is not overwritten by who expects none, nor read by who expects another."""
    path = url(signed(blobs))
    etag = (await client.put(path, data=b"1", headers={**BLOCK_BLOB, "If-None-Match": "*"})).headers["ETag"]
    again = await client.put(path, data=b"2", headers={**BLOCK_BLOB, "If-None-Match": "*"})
    assert await code_of(again) == (409, "BlobAlreadyExists")
    assert (await client.put(path, data=b"3", headers={**BLOCK_BLOB, "If-Match": etag})).status == 201
    assert await code_of(await client.get(path, headers={"If-Match": etag})) == (412, "ConditionNotMet")
    assert (await client.get(path, headers={"If-Match": "*"})).status == 200


async def test_lengths(blobs: BlobStore, client: aiohttp.ClientSession) -> None:
    """A body has to tell its length, and a length beyond the limit is refused before the body comes."""
    path = url(signed(blobs))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"

    unknown = await client.put(path, data=pieces(), headers=BLOCK_BLOB)
    assert await code_of(unknown) == (411, "MissingContentLengthHeader")
    large = await client.put(path, data=io.BytesIO(bytes(64 * 1024 * 1024 + 1)), headers=BLOCK_BLOB)
    assert await code_of(large) == (413, "RequestBodyTooLarge")


async def test_body_that_breaks_off(blobs: BlobStore) -> None:
    """A client that goes in the middle of its body leaves no blob, and no room taken."""
    async with served(HttpsService(blob_rest.routes(blobs))) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT {signed(blobs)} HTTP/1.1\r\nHost: a\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 60000000"
        writer.write(f"{head}\r\n\r\nbegin".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert blobs.names == []
    for number in range(4):
        blobs.put(f"dev/{number}", bytes(60_000_000))


@pytest.mark.parametrize("name", ["a%20b", "%C3%A9", "a%2Fb", "a%25b", "a+b", "%2e%2e"])
async def test_encoded_names(blobs: BlobStore, client: aiohttp.ClientSession, name: str) -> None:
    """A name is what the path says once decoded, and no more than that."""
    decoded = URL.build(path=f"/{name}", encoded=True).path.removeprefix("/")
    decoded = decoded if "%2F" not in name else "a/b"
    query = blobs.sas_query(f"dev/{decoded}", 2_000_000_000)
    put = await client.put(url(f"/uploads/dev/{name}{query}"), data=b"x", headers=BLOCK_BLOB)
    assert (put.status, blobs.names) == (201, [f"dev/{decoded}"])


async def test_bad_path(client: aiohttp.ClientSession) -> None:
    """A path that is not UTF-8 is refused."""
    assert await code_of(await client.get(url("/uploads/dev/%FF"))) == (400, "InvalidUri")


# Parsers


def test_block_list() -> None:
    """A list names blocks in order, as Python's and Node's SDKs write it."""
    blocks = b"<BlockList><Latest>YQ==</Latest><Uncommitted> Yg== </Uncommitted></BlockList>"
    assert parse_block_list(b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?>\n" + blocks, "x") == ["YQ==", "Yg=="]
    assert parse_block_list(b"<BlockList />", "x") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe<\x00",
        b"<BlockList><Committed>YQ==</Committed></BlockList>",
        b"<Other/>",
        b'<!DOCTYPE b [<!ENTITY a "aaaa">]><BlockList><Latest>&a;</Latest></BlockList>',
        b"<BlockList><Latest>&a;</Latest></BlockList>",
        b'<?xml version="1.0" encoding="none"?><BlockList>',
        b"<a>" * 100_000,
    ],
)
def test_no_block_list(body: bytes) -> None:
    """What is no list of new blocks, or brings definitions of its own, is refused."""
    with refused_with("InvalidXmlDocument"):
        parse_block_list(body, "x")


tags = st.sampled_from(["<BlockList>", "</BlockList>", "<Latest>", "</Latest>", "&lt;", "]]>", "<?x?>", "<!", "YQ=="])


@given(st.binary(max_size=40) | st.lists(tags, max_size=8).map("".join).map(str.encode))
def test_arbitrary_block_lists(body: bytes) -> None:
    """Any bytes are a list or refused, with no other error."""
    try:
        ids = parse_block_list(body, "x")
    except StorageRefused:
        return
    assert len(ids) <= MAX_BLOCKS


@given(st.lists(st.binary(min_size=1, max_size=64).map(base64.b64encode).map(bytes.decode), max_size=10))
def test_block_lists_round_trip(ids: list[str]) -> None:
    """What a client puts into a list comes out of it."""
    body = "".join(f"<Latest>{each}</Latest>" for each in ids)
    assert parse_block_list(f"<BlockList>{body}</BlockList>".encode(), "x") == ids


@given(st.text("bytes=-0123456789, ", max_size=16) | st.none(), st.integers(0, 100))
def test_ranges(header: str | None, size_bytes: int) -> None:
    """A range is within the blob, or everything, or refused."""
    try:
        wanted = parse_range(header, size_bytes, "x")
    except StorageRefused:
        return
    assert wanted is None or 0 <= wanted.start < wanted.end <= size_bytes


@pytest.mark.parametrize(
    ("header", "wanted"),
    [("bytes=0-9", (0, 10)), ("bytes=5-", (5, 10)), ("bytes=9-100", (9, 10)), ("bytes=3-2", None), ("lines=1-2", None)],
)
def test_range_forms(header: str, wanted: tuple[int, int] | None) -> None:
    """Both ends are included; the last may be left out."""
    assert parse_range(header, 10, "x") == wanted


# The storage SDK


@pytest.fixture
def sdk() -> Any:
    return pytest.importorskip("azure.storage.blob", reason="the storage SDK is not installed (azure-storage-blob)")


@pytest.fixture
async def port(blobs: BlobStore) -> AsyncIterator[int]:
    async with served(HttpsService(blob_rest.routes(blobs))) as port:
        yield port


async def test_sdk(sdk: Any, blobs: BlobStore, port: int) -> None:
    """The unmodified storage SDK writes in one piece and in blocks, reads in one piece and in several."""
    upload = blobs.begin_upload("dev", "a b/é.bin")
    content = random.Random(1).randbytes(300_000)

    def use() -> None:
        address = f"http://127.0.0.1:{port}/uploads/dev/a b/é.bin{upload.sas_query}"
        options = {"max_single_put_size": 100_000, "max_block_size": 70_000, "max_single_get_size": 50_000}
        with sdk.BlobClient.from_blob_url(address, max_chunk_get_size=40_000, retry_total=0, **options) as blob:
            blob.upload_blob(b"one piece", validate_content=True)
            assert blob.download_blob().readall() == b"one piece"
            settings = sdk.ContentSettings(content_type="text/x")
            blob.upload_blob(content, overwrite=True, max_concurrency=3, content_settings=settings)
            assert blob.download_blob(max_concurrency=3).readall() == content
            assert blob.download_blob(offset=100, length=5).readall() == content[100:105]
            properties = blob.get_blob_properties()
            assert (properties.size, properties.content_settings.content_type) == (300_000, "text/x")
            blob.upload_blob(b"", overwrite=True)
            assert blob.download_blob().readall() == b""

    await soon(asyncio.to_thread(use))
    assert blobs.names == ["dev/a b/é.bin"]


async def test_sdk_errors(sdk: Any, blobs: BlobStore, port: int) -> None:
    """The storage SDK raises what it raises at Azure."""
    errors = pytest.importorskip(
        "azure.core.exceptions", reason="the storage SDK is not installed (azure-storage-blob)"
    )
    upload = blobs.begin_upload("dev", "x")

    def use() -> None:
        address = f"http://127.0.0.1:{port}/uploads/dev/x"
        with sdk.BlobClient.from_blob_url(address + upload.sas_query, retry_total=0) as blob:
            with pytest.raises(errors.ResourceNotFoundError):
                blob.download_blob()
            blob.upload_blob(b"1")
            with pytest.raises(errors.ResourceExistsError):
                blob.upload_blob(b"2")
        unsigned = sdk.BlobClient.from_blob_url(address, retry_total=0)
        with unsigned, pytest.raises(errors.ClientAuthenticationError):
            unsigned.upload_blob(b"3")

    await soon(asyncio.to_thread(use))
    assert blobs.read("dev/x") == b"1"


async def test_directory_over_http(sdk: Any, tmp_path: Path) -> None:
    """With a directory, the SDK reads back what is in the file."""
    blobs = BlobStore(directory=tmp_path)
    upload = blobs.begin_upload("dev", "x")

    def use(port: int) -> None:
        with sdk.BlobClient.from_blob_url(f"http://127.0.0.1:{port}/uploads/dev/x{upload.sas_query}") as blob:
            blob.upload_blob(b"content")
            assert blob.download_blob().readall() == b"content"

    async with served(HttpsService(blob_rest.routes(blobs))) as port:
        await soon(asyncio.to_thread(use, port))
    assert (tmp_path / "dev%2Fx").read_bytes() == b"content"
