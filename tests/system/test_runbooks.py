"""Every command of every runbook runs, against a real service and a real Redis; kubectl and helm alone are stand-ins.

Without a cluster kubectl cannot run: system/kubectl.py takes its place, runs here what is to be executed in a pod,
prints a pod's log, and refuses verbs, options and names that there are not. What would change a cluster is not done.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.running import Starling
from tests.support.services import RedisServer
from tests.system.runbooks import RUNBOOKS, Command, commands, install

PAGES = sorted(RUNBOOKS.iterdir())


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of anyone who follows a runbook: one pod over Redis."""
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed; on Debian: apt-get install redis-tools")
    with RedisServer() as redis:
        environment = {"STARLING_DEV": "true", "STARLING_BROKER_URL": redis.url, "STARLING_WORKERS": "1"}
        with Starling(environment) as starling:
            variables = install(tmp_path_factory.mktemp("bin"), {"starling-0": starling})
            yield variables | {"POD": "starling-0", "REDIS_URL": redis.url}


@pytest.mark.timeout(300)
def test_every_command_of_every_runbook_runs_and_the_first_shows_something(shell: dict[str, str]) -> None:
    lines = sorted({command.line for page in PAGES for command in commands(page)})
    assert len(lines) > 40
    with ThreadPoolExecutor(3) as pool:
        printed = dict(zip(lines, pool.map(lambda line: Command("runbook", line).run(shell), lines), strict=True))
    silent = [page.stem for page in PAGES if not printed[commands(page)[0].line].strip()]
    assert silent == []


@pytest.mark.parametrize(
    "line",
    [
        "kubectl exec $POD -- starling no-such-command",
        "kubectl exec starling-9 -- starling version",
        "kubectl exec $POD -- starling no-such-command | tail -1",
        "kubectl rollout understand deployment/$DEPLOYMENT",
        "kubectl delete pod $POD --no-such-option",
        "echo $NO_SUCH_VARIABLE",
        "redis-cli -u redis://127.0.0.1:1 ping",
        "helm rollback another-release",
        "helm undo $RELEASE",
        "kubectl logs $POD --since fifteen-minutes",
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(shell: dict[str, str], line: str) -> None:
    with pytest.raises(AssertionError):
        Command("none", line).run(shell)
