"""The rules in force: those of the configuration, or those the twin put in their place.

A desired property `rules` holds a list as in `gateway.yaml` and replaces the configured list as a whole; null brings
the configured one back. A list that is wrong changes nothing and is answered with status 400 and the reason, in the
form the IoT Plug and Play convention gives to writable properties:
https://learn.microsoft.com/azure/iot/concepts-convention#writable-properties
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
from pydantic import ValidationError

from edge_gateway.config.problems import problems
from edge_gateway.config.rules import CommandOnAlert, ThresholdRule
from edge_gateway.config.settings import Settings
from edge_gateway.errors import ConfigError
from edge_gateway.records import Reading
from edge_gateway.rules import Outcome
from edge_gateway.rules.threshold import Threshold

_log = structlog.get_logger()


class Vocabulary(NamedTuple):
    """What rules may say about devices of one profile."""

    values: frozenset[str] | None
    """None where only the devices know; a rule may name any then."""
    commands: frozenset[str]


class _RuleList(Settings):
    rules: tuple[ThresholdRule, ...]


class RuleSet:
    """All rules, each given the readings of its profile.

    Args:
        configured: the rules of `gateway.yaml`.
        vocabulary: for each profile that a link speaks, what its devices measure and obey.
        obeys: what each device obeys that a rule may name as another one, and the gateway itself, by name.
        desired: the list the twin had put in force before the last restart, or None.
        save_desired: called with a list accepted from the twin, or with None when the configured one is back. It may
            raise OSError: then the rules are in force all the same, and saving is tried again when the hub next sends
            them, which it does with every connection.

    Raises:
        ConfigError: a configured rule names a profile, value or command that no link has.
    """

    def __init__(
        self,
        configured: Sequence[ThresholdRule],
        vocabulary: Mapping[str, Vocabulary],
        *,
        obeys: Mapping[str, frozenset[str]] = MappingProxyType({}),
        desired: Sequence[Any] | None = None,
        save_desired: Callable[[Sequence[Any] | None], None] = lambda _: None,
    ) -> None:
        self._configured = tuple(configured)
        self._vocabulary = vocabulary
        self._obeys = obeys
        self._save_desired = save_desired
        self._saved = desired
        self._by_profile: dict[str, list[Threshold]] = {}
        self._answer: dict[str, Any] = {}
        self._check(self._configured)
        self._put_in_force(self._configured)
        if desired is not None:
            self._take_over(desired, version=0)

    def __call__(self, readings: Sequence[Reading]) -> Outcome | None:
        """What follows from readings of one profile; None if no rule looks at it."""
        rules = self._by_profile.get(readings[0].profile)
        if rules is None:
            return None
        outcome = Outcome([], [])
        for rule in rules:
            rule(readings, outcome)
        return outcome

    def raised(self) -> list[dict[str, str]]:
        """The alerts raised now."""
        return [
            {"rule": rule.name, "device": device}
            for rules in self._by_profile.values()
            for rule in rules
            for device in sorted(rule.raised)
        ]

    def reported(self) -> dict[str, Any]:
        """What to report of the rules: the names in force, and the answer to the last desired list."""
        names = [rule.name for rules in self._by_profile.values() for rule in rules]
        return {"value": sorted(names), **self._answer}

    def apply_desired(self, desired: Mapping[str, Any], *, whole: bool) -> None:
        """Take over the `rules` of desired properties, or say in `reported` why not.

        Args:
            desired: the properties, or what changed of them.
            whole: whether they are all there are, so that missing `rules` mean that none are desired.
        """
        if "rules" not in desired and not whole:
            return
        wanted = desired.get("rules")
        if wanted is None:
            self._answer = {}
            self._put_in_force(self._configured)
        elif not self._take_over(wanted, version=desired.get("$version", 0)):
            return
        if wanted != self._saved:
            self._save(wanted)

    def _save(self, wanted: Sequence[Any] | None) -> None:
        try:
            self._save_desired(wanted)
        except OSError as error:
            _log.warning("rules.unsaved", reason=error.strerror)
        else:
            self._saved = wanted

    def _take_over(self, wanted: Any, *, version: int) -> bool:
        try:
            rules = _RuleList.model_validate({"rules": wanted}).rules
            self._check(rules)
        except ValidationError as error:
            reason = "; ".join(problems(error, _RuleList))
        except ConfigError as error:
            reason = str(error)
        else:
            self._put_in_force(rules)
            self._answer = {"ac": 200, "av": version, "ad": ""}
            _log.info("rules.replaced", rules=len(rules), version=version)
            return True
        self._answer = {"ac": 400, "av": version, "ad": reason[:1000]}
        _log.warning("rules.refused", version=version, reason=reason)
        return False

    def _put_in_force(self, rules: Sequence[ThresholdRule]) -> None:
        before = [rule for each in self._by_profile.values() for rule in each]
        self._by_profile = {}
        for settings in rules:
            # A rule that stays as it was keeps its raised alerts, or each would be raised a second time.
            rule = next((each for each in before if each.settings == settings), None) or Threshold(settings)
            self._by_profile.setdefault(settings.profile, []).append(rule)

    def _check(self, rules: Sequence[ThresholdRule]) -> None:
        names = [rule.name for rule in rules]
        for rule in rules:
            where = f"rules: {rule.name}"
            if names.count(rule.name) > 1:
                raise ConfigError("two rules have this name", where=where, remedy="Give each its own")
            known = self._vocabulary.get(rule.profile)
            if known is None:
                profiles = ", ".join(sorted(self._vocabulary))
                raise ConfigError(
                    f"no link speaks the profile {rule.profile!r}", where=where, remedy=f"Profiles: {profiles}"
                )
            if known.values is not None and rule.value not in known.values:
                values = ", ".join(sorted(known.values))
                raise ConfigError(
                    f"{rule.profile} has no value {rule.value!r}", where=where, remedy=f"Values: {values}"
                )
            for command in (rule.on_raise, rule.on_clear):
                if command is not None:
                    self._check_command(command, rule.profile, known.commands, where)

    def _check_command(self, command: CommandOnAlert, profile: str, of_profile: frozenset[str], where: str) -> None:
        commands = of_profile if command.device is None else self._obeys.get(command.device)
        if commands is None:
            devices = ", ".join(sorted(self._obeys)) or "none"
            raise ConfigError(
                f"there is no device {command.device!r} to send {command.name!r} to",
                where=where,
                remedy=f"Devices: {devices}",
            )
        if command.name not in commands:
            raise ConfigError(
                f"{command.device or profile} has no command {command.name!r}",
                where=where,
                remedy=f"Commands: {', '.join(sorted(commands)) or 'none'}",
            )
