"""A worker whose new links all fail, from the fault to its runbook; as in test_fault_found.py."""

import asyncio
from pathlib import Path

import pytest

from tests.support.prometheus import PrometheusServer
from tests.support.running import serving
from tests.support.services import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.system.flow import environment
from tests.system.runbooks import install
from tests.system.test_fault_found import Pods, find


# That the worker is found and replaced: test_link_recovery.py; that its alert fires: tests/chart/test_rules.py.
@pytest.mark.long
async def test_an_unresponsive_worker_is_found(redis_server: RedisServer, tmp_path: Path) -> None:
    async with TcpProxy(redis_server.port) as proxy, serving(environment(tmp_path, proxy.url)) as pod:
        targets = {"starling-0": f"127.0.0.1:{pod.internal_port}"}
        prometheus = await asyncio.to_thread(PrometheusServer(targets).__enter__)
        try:
            shell = install(tmp_path, {"starling-0": pod}) | {"REDIS_URL": redis_server.url}
            running = Pods({"starling-0": pod}, redis_server, prometheus, shell, None)
            assert prometheus.firing() == set()
            _, well = await asyncio.to_thread(lambda: pod.workers)
            # What stands between lets one worker listen, and neither the other nor anyone who takes its place; their
            # probes listen elsewhere.
            proxy.refuse = lambda said: b":canary:" in said and b"SUBSCRIBE" in said and b"-%d\r" % well not in said
            proxy.cut()

            said = r'starling_broker_probes_total\{result="received"\} ([3-9]|[1-9]\d)'
            await asyncio.to_thread(find, running, "StarlingUnresponsiveWorker", "starling-0", shown=0, said=said)
        finally:
            await asyncio.to_thread(prometheus.__exit__, None, None, None)
