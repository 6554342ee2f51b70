"""Files with secrets: read into memory that is wiped, and erased, bytes and name."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from edge_gateway.errors import ConfigError
from edge_gateway.provisioning.secret_input import SecretInput

SECRET = b"a secret that nobody shall read\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def given_secret(path: Path, *, most_bytes: int = 1000, keep_file: bool = False) -> SecretInput:
    return SecretInput(str(path), most_bytes=most_bytes, keep_file=keep_file)


def test_a_file_is_erased_with_its_bytes(path: Path, tmp_path: Path) -> None:
    """Its name is gone, and its bytes are overwritten in place, as another name for them shows."""
    other_name = tmp_path / "other"
    other_name.hardlink_to(path)
    with given_secret(path) as given:
        assert given.content == SECRET
        assert given.erase() == f"{path} is erased"
        assert given.erase() == ""
    assert not path.exists()
    assert other_name.read_bytes() == bytes(len(SECRET))


def test_the_copy_in_memory_is_wiped(path: Path) -> None:
    """What was read is zeros when the context is left, erased or not."""
    with given_secret(path) as given:
        pass
    assert given.content == bytes(len(SECRET))
    assert path.read_bytes() == SECRET


def test_a_file_may_be_kept(path: Path) -> None:
    """Asked to, nothing is erased, and it is said that the secret is still there."""
    with given_secret(path, keep_file=True) as given:
        assert "still has the secret" in given.erase()
    assert path.read_bytes() == SECRET


def test_a_link_leads_to_what_is_erased(path: Path, tmp_path: Path) -> None:
    """The file itself is erased, not only the link that named it."""
    link = tmp_path / "link"
    link.symlink_to(path)
    with given_secret(link) as given:
        given.erase()
    assert not path.exists()


def test_others_could_read_it(path: Path) -> None:
    """A file that was readable for others is told as such: somebody may have a copy."""
    path.chmod(0o644)
    with given_secret(path) as given:
        assert given.erase() == f"{path} is erased. Others could read it until now"


def test_another_file_is_not_erased(path: Path) -> None:
    """What was put in the file's place meanwhile is somebody else's."""
    with given_secret(path) as given:
        aside = path.with_name("aside")
        aside.write_bytes(b"new")
        aside.replace(path)
        with pytest.raises(ConfigError, match="another file has taken its place"):
            given.erase()
    assert path.read_bytes() == b"new"


def test_a_pipe_has_nothing_to_erase(tmp_path: Path) -> None:
    """What a shell gives by <(...) is read and gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(SECRET,))
    writer.start()
    with given_secret(pipe) as given:
        assert given.content == SECRET
        assert given.erase() == ""
    writer.join()
    assert pipe.exists()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads it to its end, and there is nothing to erase."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SECRET)))
    with SecretInput("-", most_bytes=1000) as given:
        assert (bytes(given.content), given.erase(), given.where) == (SECRET, "", "standard input")


def test_standard_input_from_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell's `< secret.txt` leaves a file that we do not know by name: it is said that it is still there."""
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with SecretInput("-", most_bytes=1000) as given:
            assert given.content == SECRET
            assert "it still has the secret: erase it" in given.erase()


@pytest.mark.parametrize("most_bytes", [0, len(SECRET) - 1])
def test_too_long(path: Path, most_bytes: int) -> None:
    """More than there can be is refused, and the file is left as it is."""
    with pytest.raises(ConfigError, match=f"is longer than {most_bytes} bytes"):
        given_secret(path, most_bytes=most_bytes)
    assert path.read_bytes() == SECRET


def test_just_long_enough(path: Path) -> None:
    """The most that is allowed is allowed."""
    with given_secret(path, most_bytes=len(SECRET)) as given:
        assert given.content == SECRET


def test_a_file_whose_erasing_was_cut_short(path: Path) -> None:
    """Zeros in it tell that it was about to be erased; what to do is told."""
    path.write_bytes(bytes(10) + SECRET[10:])
    with pytest.raises(ConfigError, match="was about to be erased when that was cut short") as caught:
        given_secret(path)
    assert "provision list" in str(caught.value)


@pytest.mark.parametrize(
    "secret",
    [
        "HostName=hub.example;DeviceId=a;SharedAccessKey=c2VjcmV0",
        "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=",
    ],
)
def test_a_secret_in_the_place_of_a_files_name(secret: str) -> None:
    """It is not repeated, as what is told may be kept; and it is said that it is none any more."""
    with pytest.raises(ConfigError, match="looks like the secret itself") as caught:
        SecretInput(secret, most_bytes=1000)
    assert "c2VjcmV0" not in str(caught.value)
    assert "have a new key made" in caught.value.remedy


def test_no_such_file(tmp_path: Path) -> None:
    """Named with what to do."""
    with pytest.raises(ConfigError, match="nowhere: cannot be read: No such file"):
        SecretInput(str(tmp_path / "nowhere"), most_bytes=10)
    with pytest.raises(ConfigError, match="cannot be read"):
        given_secret(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_what_could_not_be_erased_is_not_begun(path: Path) -> None:
    """It is found out before anything is done, and not when everything else is."""
    path.chmod(0o400)
    with pytest.raises(ConfigError, match="could not erase it afterwards"):
        given_secret(path)
