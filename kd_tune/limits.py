"""How long a search may go on: hours of the clock, and hours of devices, counted from its ledger over all launches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kd_tune import records
from kd_tune.config import ResourcesConfig
from kd_tune.errors import ConfigError
from kd_tune.run_state import Event

HOUR = 3600.0
HOURS, DEVICE_HOURS = "--max-hours", "--max-device-hours"

# Only these show that a launcher was there, and its trials with it, until they were recorded. Verdicts that a killed
# launcher had no time for are recorded by the next one, which may come days later.
_SIGNS_OF_LIFE = frozenset(
    (
        records.PROPOSED,
        records.EPOCH,
        records.RETRIED,
        records.EXHAUSTED,
        records.PLACES,
        records.PAUSED,
        records.FINISHED,
    )
)


@dataclass(frozen=True)
class Limits:
    """What stops a search before all its trials have ended; None: no such limit.

    Attributes:
        hours: of the clock, since the launch began.
        device_hours: in which trials held devices, over all launches of the run.

    Raises:
        ConfigError: not above 0, or not finite.
    """

    hours: float | None = None
    device_hours: float | None = None

    def __post_init__(self) -> None:
        given = ((HOURS, self.hours), (DEVICE_HOURS, self.device_hours))
        wrong = [(name, hours) for name, hours in given if hours is not None and not 0 < hours < math.inf]
        if wrong:
            raise ConfigError([f"{name} {hours:g}: must be hours above 0, such as 0.5" for name, hours in wrong])


NO_LIMITS = Limits()


def is_own_limit(reached: str | None) -> bool:
    """Whether what stopped a launch (`Allowance.reached`) is a limit that its user gave; a hindrance is none."""
    return reached is not None and reached.partition(" ")[0] in (HOURS, DEVICE_HOURS)


def devices_of_place(resources: ResourcesConfig) -> float:
    """Devices that a place holds while it trains: so much of a GPU, or of GPUs, or else one place of a CPU."""
    return resources.gpus_per_trial or 1.0


class DeviceTime:
    """How long the trials of a run have held devices, as its ledger shows; a listener of the run.

    As many places are held as trials have been proposed and have not ended, and at most all of them: a stack's trials
    are spread over the places. Of a launcher that was killed, what followed its last event is not known, nor counted.

    Args:
        devices: that one place holds.
    """

    def __init__(self, devices: float) -> None:
        self._devices = devices
        self._counted = 0.0
        self._places = 0
        self._running: set[int] = set()
        self._since = 0.0

    def __call__(self, event: Event, state: object = None) -> None:
        """Takes notice of an event; `state` is what listeners are told too."""
        kind = event["event"]
        if kind in _SIGNS_OF_LIFE:
            self._counted, self._since = self.seconds(event["time"]), event["time"]
        if kind == records.STARTED:
            self._places, self._since = event["slots"], event["time"]
        elif kind == records.PLACES:
            self._places = event["slots"]
        elif kind in (records.PAUSED, records.FINISHED):
            self._places = 0
        elif kind == records.PROPOSED:
            self._running.add(event["trial"])
        elif kind == records.STOPPED:
            self._running.discard(event["trial"])
        elif kind == records.REOPENED:
            self._running.update(event["trials"])

    def seconds(self, now: float) -> float:
        """Device seconds until `now`, by the clock that events have their times from; one set back takes none away."""
        held = min(self._places, len(self._running)) * self._devices
        return self._counted + held * max(0.0, now - self._since)

    def hours(self) -> float:
        """Device hours until now."""
        return self.seconds(time.time()) / HOUR


def device_time(events: Iterable[Event], resources: ResourcesConfig) -> DeviceTime:
    """What a run's ledger shows so far.

    Raises:
        ConfigError: an event has no time, or not what its kind must have.
    """
    devices = DeviceTime(devices_of_place(resources))
    for event in events:
        try:
            devices(event)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"the ledger's event {event} cannot be followed: {error!r}") from None
    return devices


class Allowance:
    """What a launch may still use.

    Args:
        limits: of the launch and its run.
        began: when the launch did, by `time.monotonic`.
        devices: what the run has used.
        hindrance: says what else, not a limit, keeps it from going on; None: nothing.
    """

    def __init__(
        self, limits: Limits, began: float, devices: DeviceTime, hindrance: Callable[[], str | None] = lambda: None
    ) -> None:
        self._limits = limits
        self._began = began
        self._devices = devices
        self._hindrance = hindrance

    def reached(self) -> str | None:
        """The limit that is reached, as it was given, or what else stops it; None while it may go on."""
        limits = self._limits
        if (hindrance := self._hindrance()) is not None:
            return hindrance
        if limits.hours is not None and time.monotonic() - self._began >= limits.hours * HOUR:
            return f"{HOURS} {limits.hours:g}"
        if limits.device_hours is not None and self._devices.hours() >= limits.device_hours:
            return f"{DEVICE_HOURS} {limits.device_hours:g}"
        return None

    def check_devices(self, run: Path) -> None:
        """Raises ConfigError if a run has had all its device hours: whoever starts it again and again must hear so."""
        allowed, used = self._limits.device_hours, self._devices.hours()
        if allowed is not None and used >= allowed:
            raise ConfigError(
                f"{DEVICE_HOURS} {allowed:g}: {run} has held devices for {used:.2f} hours in all its launches; "
                "allow more, or leave it out"
            )
