"""Options of the broker: where it is, how it is reached, and how long it keeps what nobody renews."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from starling.brokers.redis.address import SCHEMES as REDIS_SCHEMES
from starling.engine.options import HistoryStoreOptions, PresenceOptions
from starling.options import Seconds

KNOWN_SCHEMES = frozenset({"memory", "postgresql", *REDIS_SCHEMES})
WRONG_SCHEME = (
    "it must start with memory://, redis://, rediss:// or postgresql://, or redis+sentinel:// or redis+cluster://"
)


def _check_scheme(value: SecretStr) -> SecretStr:
    if value.get_secret_value().partition(":")[0] not in KNOWN_SCHEMES:
        raise ValueError(WRONG_SCHEME)
    return value


class BrokerOptions(HistoryStoreOptions, PresenceOptions):
    """The broker of a service."""

    section = "Broker"

    broker_url: Annotated[
        SecretStr,
        AfterValidator(_check_scheme),
        Field(
            description="What carries messages between processes: `memory://`, `redis://`, `rediss://` or "
            "`postgresql://`; for `redis+sentinel://` and `redis+cluster://` see docs/redis.md."
        ),
    ] = SecretStr("memory://")
    broker_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$", description="Start of every key and channel name in the broker.")
    ] = "starling"
    broker_timeout_seconds: Annotated[
        Seconds, Field(gt=0, le=60, description="How long one call to the broker may take before it counts as failed.")
    ] = 2.0
    broker_ca_file: Annotated[
        Path | None,
        Field(description="CA certificates that a `rediss://` broker is checked against. Unset: the system's."),
    ] = None
    broker_cert_file: Annotated[
        Path | None,
        Field(description="Certificate that is shown to a `rediss://` broker; needs `STARLING_BROKER_KEY_FILE`."),
    ] = None
    broker_key_file: Annotated[
        Path | None, Field(description="Private key of `STARLING_BROKER_CERT_FILE`, without a passphrase.")
    ] = None

    @property
    def broker_scheme(self) -> str:
        """The kind of broker: `memory`, `postgresql`, or one of Redis's, such as `rediss` or `redis+sentinel`."""
        return self.broker_url.get_secret_value().partition(":")[0]
