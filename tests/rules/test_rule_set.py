"""The rules in force, by configuration and by twin."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from edge_gateway.config.rules import ThresholdRule
from edge_gateway.errors import ConfigError
from edge_gateway.records import Reading
from edge_gateway.rules.rule_set import RuleSet, Vocabulary
from tests.log_events import log_events

VOCABULARY = {
    "climate": Vocabulary(frozenset({"temperature", "humidity"}), frozenset({"set-relay"})),
    "dust": Vocabulary(frozenset({"pm10"}), frozenset()),
}
HOT = {"name": "hot", "profile": "climate", "value": "temperature", "raise_above": 30, "clear_below": 28}
WET = {"name": "wet", "profile": "climate", "value": "humidity", "raise_above": 80, "clear_below": 75}
COLD = {"name": "cold", "profile": "climate", "value": "temperature", "raise_below": 5, "clear_above": 7}


class Disk:
    """Where the desired list is kept over restarts."""

    def __init__(self, kept: Sequence[Any] | None = None) -> None:
        self.kept = kept
        self.writes = 0
        self.is_full = False

    def save(self, desired: Sequence[Any] | None) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.writes += 1
        self.kept = copy.deepcopy(desired)


def rule_set(*configured: dict[str, Any], disk: Disk | None = None) -> RuleSet:
    disk = disk or Disk()
    return RuleSet(
        [ThresholdRule.model_validate(each) for each in configured],
        VOCABULARY,
        desired=disk.kept,
        save_desired=disk.save,
    )


def kinds(rules: RuleSet, **values: float) -> list[tuple[str, str]]:
    """What one reading of a climate sensor leads to."""
    outcome = rules([Reading("a", "climate", 0, values)])
    return [(event.source, event.kind) for event in outcome.events] if outcome else []


def desire(rules: RuleSet, wanted: object, *, version: int = 1, whole: bool = False) -> None:
    rules.apply_desired({"rules": wanted, "$version": version}, whole=whole)


# --- configured ----------------------------------------------------------------------------------------------------


def test_each_rule_sees_the_readings_of_its_profile() -> None:
    """Several rules look at one reading, in their order; a profile nobody watches costs nothing."""
    rules = rule_set(HOT, WET)
    assert kinds(rules, temperature=31, humidity=90) == [("hot", "alert-raised"), ("wet", "alert-raised")]
    assert rules([Reading("d", "dust", 0, {"pm10": 900})]) is None
    assert rules.raised() == [{"rule": "hot", "device": "a"}, {"rule": "wet", "device": "a"}]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"profile": "climat"}, "rules: hot: no link speaks the profile 'climat'. Profiles: climate, dust"),
        ({"value": "temprature"}, "rules: hot: climate has no value 'temprature'. Values: humidity, temperature"),
        ({"on_raise": {"name": "beep"}}, "rules: hot: climate has no command 'beep'. Commands: set-relay"),
        ({"on_clear": {"name": "beep"}}, "rules: hot: climate has no command 'beep'. Commands: set-relay"),
        (
            {"profile": "dust", "value": "pm10", "on_raise": {"name": "beep"}},
            "rules: hot: dust has no command 'beep'. Commands: none",
        ),
    ],
)
def test_a_rule_about_what_no_link_has_is_refused(change: dict[str, Any], text: str) -> None:
    """A misspelt profile, value or command is found at start, with those that there are."""
    with pytest.raises(ConfigError) as caught:
        rule_set(HOT | change)
    assert str(caught.value) == text


def test_two_rules_of_one_name_are_refused() -> None:
    """An alert is told by its rule's name, so a name means one rule."""
    with pytest.raises(ConfigError, match=r"rules: hot: two rules have this name. Give each its own"):
        rule_set(HOT, HOT | {"raise_above": 40})


def test_what_is_reported_of_configured_rules() -> None:
    """Without a desired list there are the names and no answer to one."""
    assert rule_set(WET, HOT).reported() == {"value": ["hot", "wet"]}
    assert rule_set().reported() == {"value": []}


# --- desired -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_a_desired_list_replaces_the_configured_one(whole: bool) -> None:
    """A list in the twin, whole document or patch, is in force as a whole and acknowledged with its version."""
    rules = rule_set(HOT)
    desire(rules, [COLD], version=7, whole=whole)
    assert kinds(rules, temperature=40) == []
    assert kinds(rules, temperature=1) == [("cold", "alert-raised")]
    assert rules.reported() == {"value": ["cold"], "ac": 200, "av": 7, "ad": ""}


def test_an_empty_desired_list_is_a_list() -> None:
    """An empty list in the twin switches all rules off."""
    rules = rule_set(HOT)
    desire(rules, [])
    assert kinds(rules, temperature=40) == []
    assert rules.reported() == {"value": [], "ac": 200, "av": 1, "ad": ""}


def test_null_brings_the_configured_rules_back() -> None:
    """Deleting the property, which comes as null in a patch, puts the configuration in force."""
    rules = rule_set(HOT)
    desire(rules, [COLD])
    desire(rules, None)
    assert kinds(rules, temperature=40) == [("hot", "alert-raised")]
    assert rules.reported() == {"value": ["hot"]}


def test_a_whole_document_without_rules_brings_the_configured_ones_back() -> None:
    """What was deleted while the gateway was away is missing from the document it reads when it is back."""
    disk = Disk([COLD])
    rules = rule_set(HOT, disk=disk)
    rules.apply_desired({"$version": 9}, whole=True)
    assert rules.reported() == {"value": ["hot"]}
    assert disk.kept is None


def test_a_patch_about_something_else_changes_nothing() -> None:
    """A patch without rules leaves the desired ones in force."""
    rules = rule_set(HOT)
    desire(rules, [COLD], version=3)
    rules.apply_desired({"other": 1, "$version": 4}, whole=False)
    assert rules.reported() == {"value": ["cold"], "ac": 200, "av": 3, "ad": ""}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ([COLD, HOT | {"clear_below": 31}], "`rules[1]`: clear_below (31) is above raise_above (30)"),
        ([HOT | {"hysteresis": 2}], "`rules[0].hysteresis` is not a setting"),
        ([{"name": "x"}], "`rules[0].profile` is missing"),
        ([HOT | {"value": "pressure"}], "rules: hot: climate has no value 'pressure'. Values: humidity, temperature"),
        ([COLD, COLD], "rules: cold: two rules have this name"),
        ({"hot": HOT}, "`rules` is"),
        ("all", '`rules` is "all": not a list'),
        ([None], "`rules[0]` is null: not a mapping"),
        (0, "`rules` is 0: not a list"),
        (False, "`rules` is false: not a list"),
    ],
)
def test_a_wrong_list_changes_nothing_and_is_answered(wanted: object, reason: str) -> None:
    """A list with one mistake is refused as a whole with status 400 and the reason; what was in force stays so."""
    disk = Disk()
    rules = rule_set(HOT, disk=disk)
    desire(rules, wanted, version=12)
    assert kinds(rules, temperature=31) == [("hot", "alert-raised")]
    reported = rules.reported()
    assert (reported["value"], reported["ac"], reported["av"]) == (["hot"], 400, 12)
    assert reported["ad"].startswith(reason)
    assert disk.writes == 0


def test_a_wrong_list_leaves_a_good_desired_one_in_force() -> None:
    """A mistake in the twin does not throw the gateway back to its configuration."""
    rules = rule_set(HOT)
    desire(rules, [COLD], version=1)
    desire(rules, ["?"], version=2)
    assert rules.reported()["value"] == ["cold"]
    desire(rules, [WET], version=3)
    assert rules.reported() == {"value": ["wet"], "ac": 200, "av": 3, "ad": ""}


def test_a_reason_is_short_enough_for_the_twin() -> None:
    """A hundred mistakes do not make a reported property the hub refuses."""
    rules = rule_set(HOT)
    desire(rules, [{"x" * 50: 1}] * 100)
    assert len(rules.reported()["ad"]) <= 1000


# --- alerts over a change ------------------------------------------------------------------------------------------


def test_a_rule_that_stays_keeps_its_alerts() -> None:
    """An alert that is raised is not raised a second time because another rule changed."""
    rules = rule_set(HOT, WET)
    kinds(rules, temperature=31, humidity=90)
    desire(rules, [HOT, COLD, WET | {"clear_below": 70}])
    assert rules.raised() == [{"rule": "hot", "device": "a"}]
    assert kinds(rules, temperature=31) == []
    assert kinds(rules, temperature=27) == [("hot", "alert-cleared")]


def test_the_same_list_again_keeps_everything() -> None:
    """Each connection brings the whole document; alerts survive it, and nothing is written."""
    disk = Disk()
    rules = rule_set(disk=disk)
    for _ in range(3):
        desire(rules, [HOT], whole=True)
        kinds(rules, temperature=31)
    assert rules.raised() == [{"rule": "hot", "device": "a"}]
    assert disk.writes == 1


# --- over a restart ------------------------------------------------------------------------------------------------


def test_a_desired_list_is_in_force_after_a_restart_without_hub() -> None:
    """What the twin once put in force is so from the first reading after a restart."""
    disk = Disk()
    desire(rule_set(HOT, disk=disk), [COLD])
    rules = rule_set(HOT, disk=disk)
    assert kinds(rules, temperature=1) == [("cold", "alert-raised")]
    assert rules.reported() == {"value": ["cold"], "ac": 200, "av": 0, "ad": ""}


def test_null_is_kept_over_a_restart_too() -> None:
    """Once deleted, the desired list does not come back."""
    disk = Disk()
    rules = rule_set(HOT, disk=disk)
    desire(rules, [COLD])
    desire(rules, None)
    assert rule_set(HOT, disk=disk).reported() == {"value": ["hot"]}


def test_a_kept_list_that_no_longer_fits_leaves_the_configuration_in_force() -> None:
    """After a change of the links a kept list may be wrong: the gateway starts all the same, and says so."""
    with log_events() as logs:
        rules = rule_set(HOT, disk=Disk([COLD | {"profile": "gone"}]))
    assert kinds(rules, temperature=31) == [("hot", "alert-raised")]
    assert rules.reported()["ac"] == 400
    assert [each["event"] for each in logs] == ["rules.refused"]


def test_a_full_disk_does_not_keep_rules_from_being_in_force() -> None:
    """A list that cannot be saved is in force, and is saved when the hub sends it again after the disk is free."""
    disk = Disk()
    disk.is_full = True
    rules = rule_set(HOT, disk=disk)
    with log_events() as logs:
        desire(rules, [COLD], version=2)
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["rules.unsaved"]
    assert rules.reported() == {"value": ["cold"], "ac": 200, "av": 2, "ad": ""}
    disk.is_full = False
    desire(rules, [COLD], version=2, whole=True)
    assert disk.kept == [COLD]
