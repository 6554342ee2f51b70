"""What virtual sensors measure: signals that look like a plant's and can be told apart from each other.

A signal is asked for the values at a time, in seconds since its sensor started; times never go back. Asked twice for
one time it measures twice: the noise differs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Final, Protocol

from edge_gateway.records import Value


class Signal(Protocol):
    """Gives the values of one profile's sample frame."""

    def values(self, at_s: float) -> Mapping[str, Value]:
        """Measure at `at_s` seconds after the start; the keys are the profile's values."""
        ...


_UPTIME_SPAN_MS: Final = 1 << 32


class ClimateSignal:
    """A room by `reference-climate`: a daily wave, noise, humidity against temperature, and a fan on the relay.

    While the relay is closed the fan cools the room by up to 4 Cel, so a rule that switches it at a limit sees what it
    has done.

    Args:
        rng: noise, and where in its day the room is.
        mean: Cel.
        day_s: how long a day takes; a demonstration wants a short one.
    """

    _SWING = 4.0
    _COOLING = 4.0
    _COOLING_WITHIN_S = 2.0
    _FULL_BATTERY_V = 3.3
    _EMPTY_BATTERY_V = 2.4
    _BATTERY_LASTS_S = 365 * 86_400.0

    def __init__(self, rng: random.Random, *, mean: float = 22.0, day_s: float = 86_400.0) -> None:
        self._rng = rng
        self._mean = mean
        self._day_s = day_s
        self._phase = rng.random()
        self._cooled = 0.0
        self._last_s = 0.0
        self._door_open = False
        self.relay_closed = False

    def values(self, at_s: float) -> Mapping[str, Value]:
        """See `Signal.values`."""
        rng = self._rng
        share = 1 - math.exp((self._last_s - at_s) / self._COOLING_WITHIN_S)
        self._cooled += ((self._COOLING if self.relay_closed else 0.0) - self._cooled) * share
        self._last_s = at_s
        if rng.random() < 0.005:
            self._door_open = not self._door_open
        swing = self._SWING * math.sin(2 * math.pi * (at_s / self._day_s + self._phase))
        temperature = self._mean + swing - self._cooled + rng.gauss(0, 0.05)
        battery = self._FULL_BATTERY_V - 0.9 * min(1.0, at_s / self._BATTERY_LASTS_S) + rng.gauss(0, 0.002)
        return {
            "uptime_ms": round(at_s * 1000) % _UPTIME_SPAN_MS,
            "temperature": round(temperature, 2),
            "humidity": round(min(100.0, max(0.0, 50 - 2.5 * (swing - self._cooled) + rng.gauss(0, 0.3))), 2),
            "battery": round(battery, 3),
            "door_open": self._door_open,
            "low_battery": battery < self._EMPTY_BATTERY_V + 0.1,
            "mode": "measure",
        }


class ParticleSignal:
    """Dust by `pms5003`: one concentration that drifts and is stirred up now and then; all counters follow it.

    Args:
        rng: drift and noise.
        mean_ug_m3: PM2.5 in calm air.
    """

    _SETTLES_WITHIN_S = 60.0
    _COUNTS_PER_UG: Final = {
        "particles_0_3um": 130.0,
        "particles_0_5um": 38.0,
        "particles_1_0um": 6.8,
        "particles_2_5um": 0.9,
        "particles_5_0um": 0.3,
        "particles_10um": 0.1,
    }
    """Particles in 0.1 L of air for each ug/m3 of PM2.5; the manual's example frame has about these."""

    def __init__(self, rng: random.Random, *, mean_ug_m3: float = 12.0) -> None:
        self._rng = rng
        self._mean = mean_ug_m3
        self._stirred = 0.0
        self._last_s = 0.0

    def values(self, at_s: float) -> Mapping[str, Value]:
        """See `Signal.values`."""
        rng = self._rng
        elapsed_s, self._last_s = at_s - self._last_s, at_s
        self._stirred *= math.exp(-elapsed_s / self._SETTLES_WITHIN_S)
        if rng.random() < 0.02:
            self._stirred = min(150.0, self._stirred + rng.expovariate(1 / 8))
        pm2_5 = max(0.0, self._mean + self._stirred + rng.gauss(0, 0.4))
        mass = {"pm1_0": round(pm2_5 * 0.62), "pm2_5": round(pm2_5), "pm10": round(pm2_5 * 1.25)}
        counts = {
            name: max(0, round(pm2_5 * count + rng.gauss(0, 0.04 * pm2_5 * count)))
            for name, count in self._COUNTS_PER_UG.items()
        }
        # Below some 30 ug/m3 the sensor's two calibrations give the same numbers.
        return {**{f"{name}_standard": value for name, value in mass.items()}, **mass, **counts, "error_code": 0}


class TankSignal:
    """A tank's level seen from its lid by `tfmini`: it is drawn from, and filled again when it is nearly empty.

    Args:
        rng: where the level starts, and noise.
        depth_m: from the sensor to the bottom.
        empties_in_s: from full to empty.
    """

    _FULL_AT_M = 0.4
    _FILLS_TIMES_FASTER = 5.0

    def __init__(self, rng: random.Random, *, depth_m: float = 4.0, empties_in_s: float = 120.0) -> None:
        self._rng = rng
        self._depth_m = depth_m
        self._speed_m_s = depth_m / empties_in_s
        self._distance_m = rng.uniform(self._FULL_AT_M, 0.8 * depth_m)
        self._filling = False
        self._last_s = 0.0

    def values(self, at_s: float) -> Mapping[str, Value]:
        """See `Signal.values`. About one in 200 echoes is too weak to be relied on."""
        rng = self._rng
        elapsed_s, self._last_s = at_s - self._last_s, at_s
        self._distance_m += elapsed_s * self._speed_m_s * (-self._FILLS_TIMES_FASTER if self._filling else 1.0)
        if self._distance_m >= 0.9 * self._depth_m:
            self._filling = True
        elif self._distance_m <= self._FULL_AT_M:
            self._filling = False
        self._distance_m = min(self._depth_m, max(self._FULL_AT_M, self._distance_m))
        if rng.random() < 0.005:
            return {"distance": None, "strength": rng.randint(0, 19), "mode": "short"}
        return {
            "distance": round(self._distance_m + rng.gauss(0, 0.01), 2),
            "strength": rng.randint(400, 700),
            "mode": "short",
        }
