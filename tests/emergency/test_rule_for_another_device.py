"""A rule's command may name another device than the one of the reading, this gateway for instance."""

from __future__ import annotations

from typing import Any

import pytest

from edge_gateway.config.rules import ThresholdRule
from edge_gateway.errors import ConfigError
from edge_gateway.records import Command, Reading
from edge_gateway.rules.rule_set import RuleSet, Vocabulary

VOCABULARY = {"shaker": Vocabulary(frozenset(["g"]), frozenset(["calm"]))}
OBEYS = {"plant": frozenset(["wipe-keys"]), "siren": frozenset(["howl"])}


def rule(**command: Any) -> ThresholdRule:
    declared = {"name": "shaken", "profile": "shaker", "value": "g", "raise_above": 2, "clear_below": 1}
    return ThresholdRule.model_validate(declared | {"on_raise": command})


def commands(rule: ThresholdRule) -> list[Command]:
    outcome = RuleSet([rule], VOCABULARY, obeys=OBEYS)([Reading("case", "shaker", 0, {"g": 3.0})])
    assert outcome is not None
    return outcome.commands


def test_the_command_goes_where_it_says() -> None:
    """To the named device, to this gateway by its own name, or to the device of the reading."""
    assert commands(rule(device="plant", name="wipe-keys")) == [Command("plant", "wipe-keys", source="rule:shaken")]
    assert commands(rule(device="siren", name="howl", arguments={"s": 5})) == [
        Command("siren", "howl", {"s": 5}, source="rule:shaken")
    ]
    assert commands(rule(name="calm")) == [Command("case", "calm", source="rule:shaken")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"device": "nobody", "name": "howl"}, "no device 'nobody' to send 'howl' to. Devices: plant, siren"),
        ({"device": "siren", "name": "calm"}, "siren has no command 'calm'. Commands: howl"),
        ({"name": "wipe-keys"}, "shaker has no command 'wipe-keys'. Commands: calm"),
    ],
)
def test_what_nobody_obeys_is_refused(command: dict[str, Any], message: str) -> None:
    """When the rule is loaded, and not when it is needed."""
    with pytest.raises(ConfigError) as caught:
        RuleSet([rule(**command)], VOCABULARY, obeys=OBEYS)
    assert message in str(caught.value)


def test_where_no_other_device_is_known_none_can_be_named() -> None:
    """A rule that would wipe is refused, and not quietly without effect."""
    with pytest.raises(ConfigError, match="no device 'plant'"):
        RuleSet([rule(device="plant", name="wipe-keys")], VOCABULARY)
