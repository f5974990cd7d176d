"""Every setting of Starling, joined from the options of its parts; only `main` and `cli` read the environment."""

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from starling.auth.options import TokenOptions
from starling.brokers.options import BrokerOptions
from starling.client.options import HookOptions, UserLimitOptions
from starling.engine.options import (
    AdmissionOptions,
    ChannelsFileOptions,
    FirstUseOptions,
    LinkOptions,
    RecoveryOptions,
    RevocationOptions,
)
from starling.options import Declaration, OptionProblem, Options, declarations
from starling.options import SettingsError as SettingsError  # noqa: PLC0414 - readers of settings get it from here
from starling.problems import describe_failure, describe_value
from starling.protocol.options import SessionOptions
from starling.server.console.options import ConsoleOptions
from starling.server.options import (
    LONGEST_DRAIN_SECONDS,
    SHORTEST_DRAIN_SECONDS,
    DrainOptions,
    ListenOptions,
    SocketOptions,
)
from starling.telemetry.options import LogOptions, TopChannelsOptions, TracingOptions
from starling.variables import CLIENT_VARIABLES, variable
from starling.variables import PREFIX as PREFIX  # noqa: PLC0414 - settings begin with it
from starling.web.options import (
    ApiOptions,
    DurableStreamOptions,
    EndpointOptions,
    EventStreamOptions,
    PageOptions,
    ProxyOptions,
    WebhookOptions,
    WriteOptions,
    cookies_problem,
)
from starling.web.origins import surprises

# Kubernetes puts such names into pods for a Service called "starling" unless enableServiceLinks is false.
_SERVICE_LINK = re.compile(r"^STARLING_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))")

SECTIONS = (
    "Ports and processes",
    "Broker",
    "Tokens, and who may connect",
    "Server API",
    "Console",
    "Connections and their limits",
    "Endpoints and pages",
    "Channels",
    "Hooks",
    "Your application",
    "Webhooks",
    "Proxies",
    "Stop",
    "Logs, metrics and traces",
    "Developer mode",
)
"""The headings of the list, in its order; each class of options names its own."""


class HostedOptions(Options):
    """A user's application in the service. Declared here, because what serves it stands above the settings."""

    section = "Your application"

    app: Annotated[
        str | None,
        Field(
            description="Your own ASGI application, `module:name`, served with Starling: see docs/embed.md.",
        ),
    ] = None
    preload_app: Annotated[
        bool,
        Field(description="Import it once, before the workers are forked, which saves memory; it may start no thread."),
    ] = False


class Settings(
    ListenOptions,
    ConsoleOptions,
    BrokerOptions,
    LinkOptions,
    TokenOptions,
    EndpointOptions,
    RevocationOptions,
    ApiOptions,
    AdmissionOptions,
    UserLimitOptions,
    SocketOptions,
    WriteOptions,
    EventStreamOptions,
    PageOptions,
    ChannelsFileOptions,
    FirstUseOptions,
    RecoveryOptions,
    DurableStreamOptions,
    HookOptions,
    HostedOptions,
    WebhookOptions,
    ProxyOptions,
    SessionOptions,
    DrainOptions,
    TopChannelsOptions,
    LogOptions,
    TracingOptions,
):
    """All settings. The environment variable of a field is its name in capitals behind `STARLING_`.

    Each may be read from a file instead: `STARLING_NAME_FILE` holds the path, as Kubernetes and Docker mount secrets.
    Times are in seconds, sizes in bytes. Lists are comma separated.
    """

    @property
    def worker_count(self) -> int:
        """How many workers run: as set, else 1 on memory, else what this pod may use of the machine."""
        if self.workers is not None:
            return self.workers
        return 1 if self.broker_scheme == "memory" else usable_cpus()

    @property
    def capacity(self) -> int:
        """Connections that this pod holds at most; 0 where only its open files bound them."""
        return self.max_connections * self.worker_count

    @property
    def drain_time(self) -> float:
        """Duration of the drain in seconds: as set, else what a full pod takes at the drain rate, at least 20."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        at_rate = math.ceil(self.capacity / self.drain_rate) if self.drain_rate else 0
        return float(min(max(SHORTEST_DRAIN_SECONDS, at_rate), LONGEST_DRAIN_SECONDS))

    def warnings(self) -> list[str]:
        """Valid settings that do not fit together, each with its remedy."""
        warnings = [f"STARLING_ALLOWED_ORIGINS: {surprise}" for surprise in surprises(self.allowed_origins)]
        if not self.drain_rate:
            return warnings
        needed = math.ceil(self.capacity / self.drain_rate)
        if needed > self.drain_time:
            remedy = f"set STARLING_DRAIN_SECONDS to {needed} or more (and the pod's grace with it)"
            if needed > LONGEST_DRAIN_SECONDS:
                remedy = f"set STARLING_DRAIN_RATE to {math.ceil(self.capacity / LONGEST_DRAIN_SECONDS)} or more"
            warnings.append(
                f"a full pod ({self.capacity} connections) needs {needed} s at STARLING_DRAIN_RATE={self.drain_rate:g} "
                f"but drains within {self.drain_time:g} s, and so faster than the rate: {remedy}, or "
                "STARLING_MAX_CONNECTIONS to less"
            )
        if self.broker_scheme == "postgresql" and "drain_rate" in self.model_fields_set:
            warnings.append(
                "STARLING_DRAIN_RATE is shared through redis:// only: on postgresql:// each worker disconnects its "
                "clients evenly over STARLING_DRAIN_SECONDS; set it to 0"
            )
        return warnings

    def contradictions(self) -> Iterator[OptionProblem]:
        """What does not fit together among the options of different parts."""
        if self.broker_scheme == "memory" and self.worker_count > 1:
            yield OptionProblem(
                "workers",
                f"STARLING_WORKERS is {self.worker_count}, but memory:// joins nothing beyond one process: "
                "set STARLING_WORKERS=1, or STARLING_BROKER_URL=redis://HOST:6379",
            )
        if self.broker_scheme == "postgresql" and self.max_connections_per_user:
            yield OptionProblem(
                "max_connections_per_user",
                "STARLING_MAX_CONNECTIONS_PER_USER counts over all processes, which postgresql:// does not keep: "
                "use a redis:// broker, or unset it",
            )
        if self.webhook_url and self.broker_scheme == "postgresql" and {"occupied", "vacated"} & {*self.webhook_events}:
            yield OptionProblem(
                "webhook_events",
                "STARLING_WEBHOOK_EVENTS holds occupied or vacated, which postgresql:// does not keep: use a redis:// "
                "broker, or set STARLING_WEBHOOK_EVENTS=connect,disconnect,subscribe,unsubscribe",
            )
        if problem := cookies_problem(self, self):
            yield problem


DECLARATIONS: Mapping[str, Declaration] = {
    each.name: each
    for each in sorted(declarations(Settings), key=lambda declaration: SECTIONS.index(declaration.section))
}
"""Every setting by its name, section by section."""


def usable_cpus() -> int:
    """CPUs this process may use: the smaller of its CPU affinity and its cgroup's quota, at least 1."""
    # macOS has neither of the two.
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return available
    if quota == "max":
        return available
    return max(1, min(available, int(quota) // int(period)))


def read_file(path: Path | str) -> str:
    """Return the text of a file in UTF-8, without the byte order mark that editors on Windows put before it.

    Raises OSError, UnicodeDecodeError.
    """
    return Path(path).read_text(encoding="utf-8-sig")


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from `environment`. Raises SettingsError with all problems at once, each with its remedy."""
    values: dict[str, Any] = {}
    problems: list[OptionProblem] = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or _SERVICE_LINK.match(name) or name in CLIENT_VARIABLES:
            continue
        field = name.removeprefix(PREFIX).lower()
        if field in DECLARATIONS:
            values[field] = environment[name]
        elif field.endswith("_file") and (filed := field.removesuffix("_file")) in DECLARATIONS:
            if variable(filed) in environment:
                text = f"{name} and {variable(filed)} are both set: unset one of the two"
                problems.append(OptionProblem(filed, text))
            try:
                values[filed] = read_file(environment[name]).strip()
            except (OSError, UnicodeDecodeError) as error:
                text = f"{name}: cannot read {environment[name]}: {describe_failure(error)}"
                problems.append(OptionProblem(filed, text))
        else:
            problems.append(OptionProblem(field, f"{name} is not a setting{_nearest(field)}"))
    settings = _validate(values, problems)
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def _validate(values: dict[str, Any], problems: list[OptionProblem]) -> Settings | None:
    """Build Settings, adding to `problems`; refused values are left out so that contradictions are found too."""
    try:
        return Settings(**values)
    except SettingsError as error:
        problems += error.found
    except ValidationError as error:
        refused = {str(problem["loc"][0]) for problem in error.errors()}
        problems += [_describe(problem) for problem in error.errors(include_url=False)]
        _validate({name: value for name, value in values.items() if name not in refused}, problems)
    return None


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, DECLARATIONS, n=1)
    return f": did you mean {PREFIX}{near[0].upper()}?" if near else ": `starling settings` lists them all"


def _describe(problem: Any) -> OptionProblem:
    declared = DECLARATIONS[str(problem["loc"][0])]
    shown = "" if declared.secret else f" (it is {str(problem['input'])[:80]!r})"
    name = variable(declared.name)
    text = f"{name}: {describe_value(problem)}{shown}. `starling explain {name}` says what it is for"
    return OptionProblem(declared.name, text)
