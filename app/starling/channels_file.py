"""The file of channels: reads the options of channels and namespaces, and checks what they need of other settings."""

import yaml

from starling.engine.channels import Channels, ChannelsError
from starling.engine.channels_document import parse_channels
from starling.options import SettingsError, problem
from starling.problems import describe_failure
from starling.settings import Settings, read_file
from starling.variables import variable
from starling.yaml_file import DuplicateKeyError, describe_syntax, read_yaml


def build_channels(settings: Settings, text: str | None = None) -> Channels:
    """Read the options of channels and namespaces. Raises SettingsError naming every mistake by its path.

    `text` stands in place of what the channels file holds.
    """
    document: object = None
    if settings.channels_file is not None:
        try:
            document = read_yaml(read_file(settings.channels_file) if text is None else text)
        except (OSError, UnicodeDecodeError) as error:
            why = f"cannot read {settings.channels_file}: {describe_failure(error)}"
            raise SettingsError([problem("channels_file", why)]) from error
        except DuplicateKeyError as error:
            raise SettingsError([f"{settings.channels_file}: {error}"]) from error
        except yaml.YAMLError as error:
            why = f"{settings.channels_file} is no YAML: {describe_syntax(error)}"
            raise SettingsError([problem("channels_file", why)]) from error
    try:
        channels = parse_channels(
            document,
            developer=settings.dev,
            # PostgreSQL keeps neither history nor presence.
            demo=settings.dev and settings.broker_scheme != "postgresql",
            personal=settings.subscribe_to_personal_channel,
            personal_namespace=settings.personal_channel_namespace,
        )
    except ChannelsError as error:
        where = settings.channels_file or variable("channels_file")
        raise SettingsError([f"{where}: {each}" for each in error.problems]) from error
    if problems := _proxies_without_address(settings, channels):
        raise SettingsError(problems)
    if settings.broker_scheme == "postgresql":
        problems = [
            f"{settings.channels_file}: {name or 'default'} uses {what}, which postgresql:// does not keep: "
            "take it out, or use a redis:// broker"
            for name, options in {"": channels.default, **channels.namespaces}.items()
            for what, used in (
                ("history", options.history_size > 0),
                ("stream", options.stream is not None),
                ("presence", options.presence),
            )
            if used
        ]
        if problems:
            raise SettingsError(problems)
    return channels


def _proxies_without_address(settings: Settings, channels: Channels) -> list[str]:
    """Namespaces that ask a proxy which has no address, each with its remedy."""
    urls = settings.proxy_urls
    return [
        f"{settings.channels_file}: {f'namespaces.{name}' if name else 'default'}.{event}_proxy: it is true, but there "
        f"is no address: set {variable(f'proxy_{event}')}, or write the address in place of true"
        for name, options in {"": channels.default, **channels.namespaces}.items()
        for event in ("subscribe", "sub_refresh", "publish", "rpc")
        if getattr(options, f"{event}_proxy") is True and event not in urls
    ]
