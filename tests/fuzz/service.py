"""The service that is fuzzed: one worker in production mode over a Redis of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.fuzz import API_KEY
from tests.support.running import SECRET, Starling
from tests.support.services import RedisServer

CHANNELS = """
default:
  allow_subscribe_for_client: true
  allow_publish_for_client: true
  allow_history_for_client: true
  allow_presence_for_client: true
  presence: true
  join_leave: true
  history_size: 10
  history_ttl: 60s
"""


@contextmanager
def service() -> Iterator[Starling]:
    """A running service whose clients may do everything, so that the input reaches every command."""
    with tempfile.TemporaryDirectory() as directory, RedisServer() as redis:
        channels = Path(directory) / "channels.yaml"
        channels.write_text(CHANNELS)
        settings = {
            "STARLING_BROKER_URL": redis.url,
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_ALLOW_ANONYMOUS": "true",
            "STARLING_API_KEYS": API_KEY,
            "STARLING_CHANNELS_FILE": str(channels),
            "STARLING_LOG_LEVEL": "error",
        }
        with Starling(settings) as starling:
            yield starling
