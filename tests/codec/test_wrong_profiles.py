"""Profiles with a mistake each: the files in `wrong_profiles`, and what their authors are told.

The first line of each file names the line of the mistake, the second how the rest of the error begins.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_gateway.codec import load_profile
from edge_gateway.errors import ProfileError

WRONG = sorted((Path(__file__).parent / "wrong_profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in WRONG])
def test_a_wrong_profile_is_refused_where_it_is_wrong(path: Path) -> None:
    """The error names the file, the line and the key, says what is wrong with it, and what would do."""
    expected = re.match(r"# Refused at line (\d+):\n# (.+)\n", path.read_text("utf-8"))
    assert expected is not None
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}:{expected[1]}: {expected[2]}")
    assert caught.value.remedy


def test_there_are_enough_of_them() -> None:
    """Each kind of field, each of its keys and the checksum are got wrong at least once."""
    assert len(WRONG) >= 40
