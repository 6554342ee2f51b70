"""Tables of sensors: read whole or refused whole, with the line of each fault and no key."""

from __future__ import annotations

import base64
import csv
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError
from edge_gateway.provisioning import leaf_table
from edge_gateway.provisioning.leaf_table import WantedLeaf, leaves_of, read_table

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()


def read(text: str) -> list[WantedLeaf]:
    return read_table(bytearray(text.encode()), where="sensors.csv")


def test_keys_in_the_table() -> None:
    """A device that is at the hub, with its key; columns in any order, quotes and a mark of a spreadsheet's."""
    leaves = read(f'\ufeffkey,device,device_id\r\n{KEY_TEXT},boiler,"plant,3"\r\n\r\n{KEY_TEXT}, attic ,plant-4\r\n')
    assert leaves == [WantedLeaf("boiler", "plant,3"), WantedLeaf("attic", "plant-4")]
    assert [leaf.key.reveal() for leaf in leaves if leaf.key] == [KEY, KEY]


def test_registration_ids_in_the_table() -> None:
    """Sensors of a group, some with a key of their own or an id that they are expected to have."""
    leaves = read(f"device,registration_id,key,device_id\na,r-a,,\nb,r-b,{KEY_TEXT},\nc,r-c,,d-c\n")
    assert leaves == [WantedLeaf("a", "", "r-a"), WantedLeaf("b", "", "r-b"), WantedLeaf("c", "d-c", "r-c")]
    assert [leaf.key is not None for leaf in leaves] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1 has to name the columns"),
        (f"boiler,plant-3,{KEY_TEXT}\n", "line 1 has to name the columns"),
        ("device;registration_id\na;b\n", "with commas between them"),
        ("device,device\na,b\n", "a column is there twice"),
        ("device,registration_id\n", "it has no row"),
        ("device,registration_id\na\n", "line 2 has 1 cells in place of 2"),
        ("device,registration_id\na b,r\n", "line 2: device is no name"),
        ("device,registration_id\na,-r\n", "line 2: registration_id cannot be one"),
        ("device,registration_id\na,\n", "line 2: either registration_id is needed, or both"),
        (f"device,device_id,key\na,a/b,{KEY_TEXT}\n", "line 2: device_id cannot be an id"),
        (f"device,device_id,key\na,b,{KEY_TEXT[:-3]}\n", "line 2: what was given is not a key"),
        (f"device,device_id,key\na,b,{KEY_TEXT}ö\n", "line 2: what was given is not a key"),
        (f"device,device_id,key\na,b,{KEY_TEXT * 9}\n", "line 2: what was given is not a key"),
        ("device,registration_id\na,r\na,s\n", "line 3: its device is that of line 2, too"),
        ("device,registration_id\na,r\nb,R\n", "line 3: its id at the hub is that of line 2, too"),
        ("device,registration_id,device_id\na,r,x\nb,R,y\n", "line 3: its registration_id is that of line 2, too"),
        (f"device,device_id,key\na,x,{KEY_TEXT}\nb,x,{KEY_TEXT}\n", "line 3: its id at the hub is that of line 2, too"),
        ('device,registration_id\n"a,b\n', "is no CSV"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: str) -> None:
    """Nothing was done, and no key is in the error."""
    with pytest.raises(ConfigError, match="Nothing was done") as caught:
        read(text)
    assert told in str(caught.value)
    assert caught.value.where == "sensors.csv"
    assert KEY_TEXT[:8] not in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    """Up to twenty, and how many more; doubles beside the rest."""
    with pytest.raises(ConfigError) as caught:
        read("device,registration_id\na,r\na,s\n" + "x y,r\n" * 30)
    assert "line 4: device" in caught.value.what
    assert "line 23: device" in caught.value.what
    assert "and 11 more" in caught.value.what


def test_sizes_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and bytes; bytes that are no text are refused, too."""
    monkeypatch.setattr(leaf_table, "MOST_IDENTITIES", 2)
    rows = [f"d{number},r{number}\n" for number in range(3)]
    assert len(read("device,registration_id\n" + "".join(rows[:2]))) == 2
    with pytest.raises(ConfigError, match="more than 2 rows"):
        read("device,registration_id\n" + "".join(rows))
    monkeypatch.setattr(leaf_table, "MOST_TABLE_BYTES", 20)
    with pytest.raises(ConfigError, match="larger than 20 bytes"):
        read("device,registration_id\na,b\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_table(b"device,\xff", where="x")


def test_names_of_the_configuration() -> None:
    """Registration ids follow from the names, in lower case, as the service makes no difference."""
    assert leaves_of(["Boiler", "attic", "attic"], registration_id="{gateway}-{device}", gateway="Plant-3") == [
        WantedLeaf("Boiler", "", "plant-3-boiler"),
        WantedLeaf("attic", "", "plant-3-attic"),
    ]


@pytest.mark.parametrize(
    ("devices", "template", "told"),
    [
        ([], "{device}", "no sensor is named"),
        (["a", "A"], "{device}", "A: its id at the hub is that of a, too"),
        (["a", "b"], "one", "b: its id at the hub is that of a, too"),
        (["a_"], "{device}", "a_: registration_id cannot be one"),
        (["a b"], "{device}", "a b: device is no name"),
    ],
)
def test_names_that_do_not_do(devices: list[str], template: str, told: str) -> None:
    """None, ids that are none, and sensors that would be one and the same."""
    with pytest.raises(ConfigError, match=told):
        leaves_of(devices, registration_id=template, gateway="g")


@given(
    content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f"device,key,device_id\n{text}".encode())
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Arbitrary bytes, with a good first line or without, end in sensors or in ConfigError."""
    with suppress(ConfigError):
        assert read_table(content, where="x")


device_ids = st.from_regex(r"[A-Za-z0-9\-.%_*?!(),=@$':]{1,40}", fullmatch=True)


@given(
    rows=st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
            device_ids,
            st.binary(min_size=16, max_size=64),
        ),
        min_size=1,
        max_size=8,
        unique_by=(lambda row: row[0], lambda row: row[1].lower()),
    )
)
def test_what_was_written_is_read(rows: list[tuple[str, str, bytes]]) -> None:
    """Any names, ids and keys that a table can have come out as they went in."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["device", "device_id", "key"])
    writer.writerows((device, device_id, base64.b64encode(key).decode()) for device, device_id, key in rows)
    leaves = read(text.getvalue())
    assert [(leaf.device, leaf.device_id, leaf.key.reveal()) for leaf in leaves if leaf.key] == rows
