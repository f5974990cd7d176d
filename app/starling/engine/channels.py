"""Channel names, namespaces and their options: what a channel keeps, and what starling.engine.rights decides from."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Literal, Self

from msgspec import Struct
from msgspec.structs import asdict
from pydantic import BeforeValidator, Field, model_validator

from starling.engine.append_options import AppendStreamOptions
from starling.engine.broker import PublishOptions
from starling.engine.channel_pattern import SLOW, slow_name
from starling.engine.duration import Duration
from starling.engine.override import NO_OVERRIDE, ChannelOverride
from starling.engine.proxied import Proxied
from starling.protocol.codes import ERROR_BAD_REQUEST, ERROR_UNKNOWN_CHANNEL, CommandRefused

NAMESPACE = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
# Control characters (C0, DEL, C1), line separators, those of the direction of text (Unicode: Bidi_Control), surrogates.
_FORBIDDEN = re.compile(r"[{}\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

TOKEN_MARK = "$"  # noqa: S105 - the first character of a channel that needs a subscription token
USERS_MARK = "#"
USER_SEPARATOR = ","
# In characters. A personal channel may be as long as the user id of the longest token, which has 8192 bytes.
NAME_LENGTH = 255
PERSONAL_NAME_LENGTH = 8192
# Names whose options and namespace are remembered: backends and clients use the same ones again and again. Long names
# are not remembered, so that they take no memory.
KNOWN_NAMES = 4096
# In metrics, where an empty label would be none; no namespace can have this name.
DEFAULT_NAMESPACE = "(default)"


DataFormat = Annotated[
    Literal["json", "json_object", "binary", "any"], BeforeValidator(lambda value: value if value != "" else "any")
]


class ChannelsError(Exception):
    """A channel configuration that cannot be used; `problems` names each by its path, with the values allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ChannelOptions(AppendStreamOptions):
    """What the channels of one namespace keep and allow. Everything is off unless it is said."""

    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    history_size: Annotated[int, Field(ge=0, le=100_000)] = 0
    history_ttl: Duration = 0
    history_meta_ttl: Duration = 30 * 86400
    force_positioning: bool = False
    force_recovery: bool = False
    force_recovery_mode: Literal["stream", "cache"] = "stream"
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    subscribe_by_hook: bool = False
    subscribe_proxy: Proxied = False
    subscribe_proxy_cache: Duration = 0
    sub_refresh_proxy: Proxied = False
    publish_proxy: Proxied = False
    rpc_proxy: Proxied = False
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_anonymous: bool = False
    allow_history_for_client: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_anonymous: bool = False
    allow_user_limited_channels: bool = False
    allow_tags_filter: bool = False
    # From a file it comes as a list.
    allowed_delta_types: Annotated[tuple[Literal["fossil"], ...], Field(strict=False)] = ()
    delta_publish: bool = False
    allow_channel_compaction: bool = False
    auto_cache_recover: bool = False
    channel_regex: str = ""
    publication_data_format: DataFormat = "json"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if bool(self.history_size) != bool(self.history_ttl):
            raise ValueError("history_size and history_ttl go together: set both, or neither")
        if self.force_recovery and not self.keeps_history:
            raise ValueError("force_recovery needs history: set history_size and history_ttl")
        if self.force_positioning and not self.keeps_history:
            raise ValueError("force_positioning needs history: set history_size and history_ttl")
        if self.allowed_delta_types and not self.history_size:
            raise ValueError("allowed_delta_types needs history: set history_size and history_ttl")
        if self.delta_publish and not self.allowed_delta_types:
            raise ValueError("delta_publish needs readers that may have patches: set allowed_delta_types: [fossil]")
        if self.auto_cache_recover and self.force_recovery_mode != "cache":
            raise ValueError("auto_cache_recover is for cache channels: set force_recovery_mode: cache")
        if self.subscribe_proxy_cache and not self.subscribe_proxy:
            raise ValueError("subscribe_proxy_cache keeps answers of a proxy: set subscribe_proxy")
        if self.history_size and self.history_meta_ttl < self.history_ttl:
            raise ValueError("history_meta_ttl must not be shorter than history_ttl")
        try:
            pattern = re.compile(self.channel_regex)
        except re.error as error:
            raise ValueError(f"channel_regex is not a regular expression: {error}") from None
        if self.channel_regex and (name := slow_name(pattern)) is not None:
            raise ValueError(
                f"channel_regex takes over {SLOW * 1000:.0f} ms to refuse {name[:40]!r}, which would stop the event "
                "loop: take out the repetition within another, such as (a+)+"
            )
        return self

    @property
    def keeps_history(self) -> bool:
        """Whether publications of these channels are kept in a stream."""
        return self.history_size > 0 or self.stream is not None

    @property
    def position_ttl(self) -> float:
        """How long the position of an unused channel is kept, in seconds; 0: for ever."""
        return self.history_meta_ttl if self.stream is None else self.stream_ttl

    def publish_options(self, idempotency_key: str = "") -> PublishOptions:
        """How a publication of these channels is kept."""
        if not idempotency_key:
            return _publish_options(self.history_size, self.history_ttl, self.history_meta_ttl, self.delta_publish)
        return PublishOptions(
            self.history_size, self.history_ttl, self.history_meta_ttl, idempotency_key, delta=self.delta_publish
        )

    def overridden(self, override: ChannelOverride) -> "ChannelOptions":
        """These options with those that `override` sets. Without history nothing can be forced that needs it."""
        if override is NO_OVERRIDE:
            return self
        said = {name: value for name, value in asdict(override).items() if value is not None}
        if not self.keeps_history:
            said.pop("force_positioning", None)
            said.pop("force_recovery", None)
        return self.model_copy(update=said) if said else self


_VERBS_IN_CHANNELS = ("subscribe", "publish", "presence", "history", "append", "cancel")


# They are the same for nearly all publications, and never change.
@lru_cache(maxsize=1024)
def _publish_options(history_size: int, history_ttl: float, history_meta_ttl: float, delta: bool) -> PublishOptions:
    return PublishOptions(history_size, history_ttl, history_meta_ttl, delta=delta)


class ChannelFacts(Struct, frozen=True):
    """A channel as a decision about rights sees it.

    `personal_prefixes` are the beginnings of names that are personal channels; none while those are off.
    """

    name: str
    options: ChannelOptions
    personal_prefixes: tuple[str, ...] = ()

    @property
    def owner(self) -> str | None:
        """The user whose personal channel this is: the whole rest of the name. None where it is no personal channel."""
        for prefix in self.personal_prefixes:
            if self.name.startswith(prefix):
                return self.name[len(prefix) :]
        return None

    @property
    def needs_token(self) -> bool:
        """Whether nobody enters without a subscription token."""
        return self.name.startswith(TOKEN_MARK)

    @property
    def listed_users(self) -> tuple[str, ...] | None:
        """The users that the end of the name lists; None where it lists none, or the list does not count.

        No id that contains a mark of the list can be listed.
        """
        if not self.options.allow_user_limited_channels or USERS_MARK not in self.name:
            return None
        return tuple(filter(None, self.name.rpartition(USERS_MARK)[2].split(USER_SEPARATOR)))


class Channels:
    """The namespaces of this service.

    While `personal` is on, a name that begins with `#` is the personal channel of the user that the rest of it is, and
    Starling subscribes every user to its own: in the default namespace, or in `personal_namespace`, as `NAME:#USER`.
    With `any_namespace` the namespaces that are not listed have the options of the default one.
    Raises ChannelsError for a `personal_namespace` that is not among `namespaces`.
    """

    def __init__(
        self,
        default: ChannelOptions,
        namespaces: Mapping[str, ChannelOptions],
        *,
        personal: bool = False,
        personal_namespace: str = "",
        any_namespace: bool = False,
    ) -> None:
        if personal_namespace and personal_namespace not in namespaces:
            missing = (
                f"namespaces.{personal_namespace}: it is missing, and STARLING_PERSONAL_CHANNEL_NAMESPACE names it"
            )
            raise ChannelsError([missing])
        self.default = default
        self.namespaces = dict(namespaces)
        self.publish_proxied = any(options.publish_proxy for options in (default, *self.namespaces.values()))
        self.have_streams = any(options.stream for options in (default, *self.namespaces.values()))
        self._any_namespace = any_namespace
        self._personal_prefix = f"{personal_namespace}:{USERS_MARK}" if personal_namespace else USERS_MARK
        self._personal_prefixes = tuple({USERS_MARK: None, self._personal_prefix: None}) if personal else ()
        self._patterns = {
            name: re.compile(options.channel_regex)
            for name, options in {"": default, **self.namespaces}.items()
            if options.channel_regex
        }
        self._known_options = lru_cache(maxsize=KNOWN_NAMES)(self._find_options)

    def replace_with(self, other: "Channels") -> None:
        """Take over the namespaces and rules of `other`, for everyone who holds this object."""
        self.default = other.default
        self.namespaces = other.namespaces
        self.publish_proxied = other.publish_proxied
        self.have_streams = other.have_streams
        self._personal_prefix = other._personal_prefix
        self._personal_prefixes = other._personal_prefixes
        self._patterns = other._patterns
        self._known_options.cache_clear()

    def personal_channel(self, user: str) -> str | None:
        """The channel that every connection of `user` is subscribed to; None for anonymous ones and while it is off."""
        return self._personal_prefix + user if self._personal_prefixes and user else None

    def options(self, channel: str) -> ChannelOptions:
        """The options of `channel`. Raises CommandRefused: 107 for an illegal name, 102 for an unknown namespace.

        The rest of a personal channel's name is a user id, so no rule for names and no `channel_regex` is about it.
        """
        return self._known_options(channel) if len(channel) <= NAME_LENGTH else self._find_options(channel)

    def knows(self, channel: str) -> bool:
        """Whether `channel` has options."""
        try:
            self.options(channel)
        except CommandRefused:
            return False
        return True

    def options_of_all(self, channels: Sequence[str]) -> list[ChannelOptions]:
        """The options of each of `channels`. Raises as `options` does, for the first that is refused."""
        short = len(max(channels, key=len, default="")) <= NAME_LENGTH
        return list(map(self._known_options if short else self.options, channels))

    def _find_options(self, channel: str) -> ChannelOptions:
        if channel.startswith(self._personal_prefixes):
            return self._personal_options(channel)
        if not channel or len(channel) > NAME_LENGTH or _FORBIDDEN.search(channel):
            raise CommandRefused(ERROR_BAD_REQUEST)
        namespace, separator, rest = channel.removeprefix(TOKEN_MARK).partition(":")
        if not separator:
            namespace, rest = "", channel
        options = self.default if not separator else self.namespaces.get(namespace)
        if options is None and self._any_namespace and NAMESPACE.match(namespace):
            options = self.default
        if options is None:
            raise CommandRefused(ERROR_UNKNOWN_CHANNEL)
        pattern = self._patterns.get(namespace)
        if pattern is not None and not pattern.search(rest):
            raise CommandRefused(ERROR_BAD_REQUEST)
        return options

    def surprises(self) -> list[str]:
        """What can be used but may surprise, by its path and with its remedy."""
        options = self.default
        given = [name for name in (f"allow_{verb}_for_client" for verb in _VERBS_IN_CHANNELS) if getattr(options, name)]
        if self._personal_prefixes or options.allow_user_limited_channels or not given:
            return []
        surprise = (
            f"default: {', '.join(given)}: a name that begins with #, such as #alice, is a channel like any other, and "
            "so open to every client; where it is meant for one user, set STARLING_SUBSCRIBE_TO_PERSONAL_CHANNEL=true"
        )
        return [surprise]

    def _personal_options(self, channel: str) -> ChannelOptions:
        if len(channel) > PERSONAL_NAME_LENGTH or channel.encode(errors="ignore").decode() != channel:
            raise CommandRefused(ERROR_BAD_REQUEST)
        if channel.startswith(USERS_MARK):
            return self.default
        return self.namespaces[channel.partition(":")[0]]

    def facts(self, channel: str, options: ChannelOptions | None = None) -> ChannelFacts:
        """What rights in `channel` depend on, with `options` in place of the namespace's. Raises as `options` does."""
        return ChannelFacts(channel, options or self.options(channel), self._personal_prefixes)


def namespace_of(channel: str) -> str:
    """The namespace's name as metrics show it."""
    return _known_namespace(channel) if len(channel) <= NAME_LENGTH else _find_namespace(channel)


def _find_namespace(channel: str) -> str:
    if ":" not in channel or channel.startswith(USERS_MARK):
        return DEFAULT_NAMESPACE
    return channel.removeprefix(TOKEN_MARK).partition(":")[0] or DEFAULT_NAMESPACE


_known_namespace = lru_cache(maxsize=KNOWN_NAMES)(_find_namespace)


def count_namespaces(channels: Sequence[str]) -> Counter[str]:
    """How many of `channels` are in each namespace."""
    first, last = min(channels, default=""), max(channels, default="")
    prefix = first[: first.find(":") + 1]
    # What stands between two texts with one prefix has it too.
    if prefix and last.startswith(prefix):
        return Counter({namespace_of(first): len(channels)})
    return Counter(map(namespace_of, channels))
