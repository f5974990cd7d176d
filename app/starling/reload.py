"""What SIGHUP reads again: channels, keys and secrets that came from files, validated in the master first."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct
from pydantic import SecretStr

from starling.auth.build import build_keys
from starling.auth.jwt import JwtVerifier
from starling.channels_file import build_channels
from starling.client.client_connection import ClientConnection
from starling.engine.engine import Engine
from starling.problems import describe_failure
from starling.server.service import ReloadError
from starling.settings import DECLARATIONS, PREFIX, Settings, SettingsError, load_settings, read_file
from starling.web.api import Api

log: structlog.stdlib.BoundLogger = structlog.get_logger("starling")

# Settings that take effect without a restart when the file that holds them has changed.
RELOADED = ("token_hmac_secret", "token_hmac_secret_previous", "token_public_key", "api_keys", "webhook_secret")


class Configuration(Struct):
    """What the master hands to all workers: the text of the channels file, and values of RELOADED."""

    channels: str | None
    values: dict[str, str | None]

    def applied_to(self, settings: Settings) -> Settings:
        """Return `settings` with these values."""
        secret = {name for name in self.values if DECLARATIONS[name].secret}
        return settings.model_copy(
            update={
                name: SecretStr(value) if value is not None and name in secret else value
                for name, value in self.values.items()
            }
        )


def validate_configuration(settings: Settings, configuration: Configuration) -> None:
    """Build what a reload changes, to find every mistake in it. Raises SettingsError."""
    problems: list[str] = []
    for build in (
        lambda: build_channels(settings, configuration.channels),
        lambda: build_keys(settings),
        lambda: settings.webhook_key,
    ):
        try:
            build()
        except SettingsError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise SettingsError(problems)


class Reload:
    """Has a worker serve by a new configuration; its clients stay connected."""

    def __init__(self, settings: Settings, engine: Engine, verifier: JwtVerifier, api: Api) -> None:
        """`settings` are those that the worker serves by."""
        self._settings = settings
        self._engine = engine
        self._verifier = verifier
        self._api = api

    def apply(self, encoded: bytes) -> None:
        """Serve by a configuration that the master has validated."""
        configuration = msgspec.json.decode(encoded, type=Configuration)
        settings, engine = configuration.applied_to(self._settings), self._engine
        engine.channels.replace_with(build_channels(settings, configuration.channels))
        engine.metrics.name_namespaces(engine.channels.namespaces)
        if keys := build_keys(settings):
            self._verifier.replace_keys(keys)
        self._api.replace_keys(settings.accepted_keys)
        if settings.webhook_url is not None:
            from starling.web.webhooks import Webhooks

            if isinstance(engine.lifecycle, Webhooks):
                engine.lifecycle.replace_key(settings.webhook_key)
        for receiver in list(engine.hub.connections):
            if isinstance(receiver, ClientConnection):
                receiver.renew_options(engine.channels)


class ConfigurationFiles:
    """The files that the settings in `environment` name, as they were at the last reading; used in the master."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """`settings` are those that are served."""
        self._settings = settings
        self._environment = environment
        self._loaded = load_settings(environment)
        self._code = _changed_at(settings)

    def read(self) -> bytes:
        """Read and validate all of it; returns a Configuration in JSON. Raises ReloadError."""
        try:
            found = load_settings(self._environment)
            channels = None if self._settings.channels_file is None else read_file(self._settings.channels_file)
            configuration = Configuration(channels, self._values(found))
            validate_configuration(configuration.applied_to(self._settings), configuration)
        except SettingsError as error:
            raise ReloadError(error.problems) from error
        except (OSError, UnicodeDecodeError) as error:
            path = self._settings.channels_file
            raise ReloadError([f"{PREFIX}CHANNELS_FILE: cannot read {path}: {describe_failure(error)}"]) from error
        self._report_what_needs_a_restart(found)
        return msgspec.json.encode(configuration)

    def _values(self, found: Settings) -> dict[str, str | None]:
        """The values of RELOADED in files; one that developer mode has made up stays."""
        values: dict[str, str | None] = {}
        for name in RELOADED:
            if f"{PREFIX}{name.upper()}_FILE" in self._environment:
                value = getattr(found, name)
                values[name] = value.get_secret_value() if isinstance(value, SecretStr) else value
        return values

    def _report_what_needs_a_restart(self, found: Settings) -> None:
        changed = [
            f"{PREFIX}{name.upper()}"
            for name in DECLARATIONS
            if name not in RELOADED and getattr(found, name) != getattr(self._loaded, name)
        ]
        if _changed_at(self._settings) != self._code:
            changed.append(f"{PREFIX}HOOKS (its code)")
        if changed:
            remedy = "restart the service: the environment and the application's code are not read again"
            log.warning("configuration_needs_restart", settings=changed, remedy=remedy)


def _changed_at(settings: Settings) -> dict[Path, int]:
    """When each file of the hooks was changed, in ns since 1970."""
    if settings.hooks is None or settings.hooks_path is None:
        return {}
    times: dict[Path, int] = {}
    for path in settings.hooks_path.rglob("*.py"):
        try:
            times[path] = path.stat().st_mtime_ns
        except OSError:
            continue
    return times
