"""`edge-gateway profiles`: what a person, or a script with --json, gets to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from edge_gateway.cli.app import collect
from edge_gateway.codec import load as profile_loading
from edge_gateway.codec import load_profile, profile_names
from edge_gateway.errors import CodecError, ProfileError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(collect("profiles"), ["profiles", *arguments], catch_exceptions=True)


def run_json(*arguments: str) -> Any:
    return orjson.loads(run(*arguments, "--json").stdout_bytes)


@pytest.fixture
def soil_probe(tmp_path: Path) -> Path:
    path = tmp_path / "soil-probe.yaml"
    assert run("new", "soil-probe", "--output", str(path)).exit_code == 0
    return path


def test_list_names_all_profiles() -> None:
    """Every packaged profile is listed with its title, vectors and source."""
    listed = run_json("list")
    assert [each["name"] for each in listed] == profile_names()
    assert all(each["title"] and each["vectors"] > 0 and each["source"]["document"] for each in listed)
    kinds = {each["name"]: each["kind"] for each in listed}
    expected = {"tfmini": "serial", "bthome-v2": "radio", "sdm120": "polled", "cayenne-lpp": "payload"}
    assert expected.items() <= kinds.items()
    shown = run("list").stdout
    assert all(name in shown for name in profile_names())


def test_list_finds_profiles_of_ones_own(soil_probe: Path) -> None:
    """A directory of profiles is listed beside the packaged ones."""
    listed = run_json("list", "--profiles", str(soil_probe.parent))
    assert "soil-probe" in [each["name"] for each in listed]


def test_show_prints_what_follows_from_a_profile() -> None:
    """Source, page, schema and DTDL come as they are generated."""
    assert "def decode(frames):" in run("show", "tfmini", "--source").stdout
    assert run("show", "tfmini").stdout == run("show", "tfmini", "--markdown").stdout
    assert "## Frame `distance`" in run("show", "tfmini", "--markdown").stdout
    Draft202012Validator.check_schema(orjson.loads(run("show", "tfmini", "--schema").stdout))
    interface = orjson.loads(run("show", "tfmini", "--dtdl", "--dtmi-prefix", "dtmi:com:example").stdout)
    assert interface["@id"] == "dtmi:com:example:tfmini;1"


def test_show_has_json_for_every_view() -> None:
    """With --json each view is a document; without a view, the profile itself, which loads again."""
    assert set(run_json("show", "tfmini", "--source")) == {"source"}
    assert set(run_json("show", "tfmini", "--markdown")) == {"markdown"}
    assert run_json("show", "tfmini", "--schema")["type"] == "object"
    document = run_json("show", "reference-climate")
    profile = load_profile("reference-climate")
    assert type(profile).model_validate(document) == profile


def test_show_takes_one_view() -> None:
    """Two views at once are refused."""
    result = run("show", "tfmini", "--source", "--dtdl")
    assert result.exit_code == 2
    assert "one at a time" in result.output


def test_an_unknown_profile_is_an_error() -> None:
    """A name nobody knows is told with names that would do."""
    result = run("show", "tfmni")
    assert isinstance(result.exception, ProfileError)
    assert "tfmini" in result.exception.remedy


def test_a_prefix_dtdl_refuses_is_an_error() -> None:
    """What cannot be an identifier in DTDL is refused."""
    assert isinstance(run("show", "tfmini", "--dtdl", "--dtmi-prefix", "example").exception, CodecError)


def test_all_packaged_vectors_hold() -> None:
    """Without a name all profiles are tested, and all is well."""
    result = run("test")
    assert result.exit_code == 0
    count = len(profile_names())
    assert f"{count} of {count} profiles hold" in result.stdout
    assert all(each["ok"] for each in run_json("test"))


def test_failures_are_a_table_with_bytes(soil_probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector that does not hold makes the exit code 1, and says which byte, expected, got."""
    monkeypatch.setenv("COLUMNS", "200")
    soil_probe.write_text(soil_probe.read_text().replace("temperature: 23.5", "temperature: 23.6"))
    result = run("test", "tfmini", str(soil_probe))
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if "vectors[0]" in line]
    assert row.split()[:6] == ["soil-probe", "vectors[0]", "1-2", "temperature", "23.6", "23.5"]
    assert "1 of 2 profiles hold" in result.stdout
    tfmini, soil = run_json("test", "tfmini", str(soil_probe))
    assert tfmini["ok"]
    assert not soil["ok"]
    (failure,) = soil["failures"]
    assert (failure["start"], failure["end"], failure["expected"], failure["got"]) == (1, 3, "23.6", "23.5")


def test_a_profile_without_vectors_does_not_pass(soil_probe: Path) -> None:
    """Nothing tested is nothing shown."""
    soil_probe.write_text(soil_probe.read_text().partition("# At least one frame")[0])
    result = run("test", str(soil_probe))
    assert result.exit_code == 1
    assert "0 of 1 profiles hold" in result.stdout


@pytest.mark.parametrize("name", profile_names())
def test_a_packaged_profile_has_vectors(
    name: str, soil_probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each profile in the package has vectors, and without them it would not load."""
    assert load_profile(name).vectors
    text = (profile_loading.PACKAGED / f"{name}.yaml").read_text("utf-8").partition("\nvectors:")[0]
    monkeypatch.setattr(profile_loading, "PACKAGED", tmp_path)
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match="needs test vectors"):
        load_profile(name)


def test_a_new_profile_works_as_it_is(soil_probe: Path) -> None:
    """What `new` writes passes `test`; on standard output it is the same."""
    assert run("test", str(soil_probe)).exit_code == 0
    assert run("new", "soil-probe").stdout == soil_probe.read_text()
    assert run_json("new", "soil-probe")["text"] == soil_probe.read_text()


def test_a_new_radio_profile_works_as_it_is(tmp_path: Path) -> None:
    """With --radio, what is written describes a sensor that advertises, and passes as well."""
    path = tmp_path / "plant-probe.yaml"
    assert run("new", "plant-probe", "--radio", "-o", str(path)).exit_code == 0
    assert run("test", str(path)).exit_code == 0
    assert load_profile(path).radio is not None


def test_a_new_profile_overwrites_nothing(soil_probe: Path) -> None:
    """A file that is there stays, and the error says so."""
    soil_probe.write_text("mine")
    result = run("new", "soil-probe", "-o", str(soil_probe))
    assert isinstance(result.exception, ProfileError)
    assert result.exception.what == "file exists"
    assert soil_probe.read_text() == "mine"
