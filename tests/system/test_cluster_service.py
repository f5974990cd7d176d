"""What goes between workers works on a cluster too, by the server API's own tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_cluster import RedisCluster
from tests.support.running import SECRET, Starling
from tests.system import test_api as of_the_api
from tests.system.test_api import api

__all__ = ["api"]


@pytest.fixture(scope="module")
def starling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starling]:
    """Two workers on a cluster."""
    channels: Path = tmp_path_factory.mktemp("channels") / "channels.yaml"
    channels.write_text(of_the_api.CHANNELS)
    with RedisCluster() as cluster:
        environment = {
            "STARLING_TOKEN_HMAC_SECRET": SECRET,
            "STARLING_API_KEYS": of_the_api.KEY,
            "STARLING_BROKER_URL": cluster.url,
            "STARLING_WORKERS": "2",
            "STARLING_CHANNELS_FILE": str(channels),
        }
        with Starling(environment) as running:
            yield running


test_publishing = of_the_api.test_cent_publishes_to_clients_of_both_workers
test_broadcasting = of_the_api.test_cent_broadcasts
test_subscribing_by_the_server = of_the_api.test_cent_subscribes_and_unsubscribes_a_user_everywhere
test_disconnecting = of_the_api.test_cent_disconnects_a_user_everywhere
test_presence = of_the_api.test_cent_reads_presence_of_both_workers
test_history = of_the_api.test_cent_reads_and_removes_history
test_idempotency = of_the_api.test_a_retry_with_the_same_key_reaches_nobody_whichever_worker_it_meets
test_revocation = of_the_api.test_a_revoked_token_ends_its_connections_on_both_workers_and_opens_no_more
