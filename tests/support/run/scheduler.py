"""Distribution of tests over the workers of pytest-xdist: whole files, the longest first, also after a worker died."""

from collections import deque
from collections.abc import Callable, Sequence

import pytest
from xdist.report import report_collection_diff
from xdist.workermanage import WorkerController, parse_tx_spec_config


class FileScheduler:
    """Gives each worker the next file when it has one test left: a worker keeps that one until it knows what follows.

    The tests that a dead worker had not begun go back to the front of the queue; the one that it ran counts as failed
    and is not run again. A worker gets its shutdown when the queue is empty, and the replacement of a dead one takes
    what is there. (Those of pytest-xdist 3.8 give a replacement one file, and wait for ever if that has one test.)

    Args:
        cost: The expected seconds of a file by its path and its number of tests.
    """

    def __init__(self, config: pytest.Config, cost: Callable[[str, int], float]) -> None:
        self._config = config
        self._cost = cost
        self._expected_workers = len(parse_tx_spec_config(config))
        self._collections: dict[WorkerController, list[str]] = {}
        self._tests: list[str] | None = None
        self._queue: deque[list[str]] = deque()
        self._pending: dict[WorkerController, dict[str, None]] = {}

    @property
    def nodes(self) -> list[WorkerController]:
        """The workers that live."""
        return list(self._pending)

    @property
    def collection_is_completed(self) -> bool:
        """Whether as many workers as are expected have collected."""
        return len(self._collections) >= self._expected_workers

    @property
    def tests_finished(self) -> bool:
        """Whether no worker needs anything but its shutdown."""
        return self._tests is not None and not self._queue and all(len(tests) < 2 for tests in self._pending.values())

    @property
    def has_pending(self) -> bool:
        """Whether a test is left to run."""
        return bool(self._queue) or any(self._pending.values())

    def add_node(self, node: WorkerController) -> None:
        """Take a worker that has started."""
        self._pending[node] = {}

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take what a worker has collected; it runs nothing if that is not what the others have collected."""
        first = next(iter(self._collections.values()), list(collection))
        self._collections[node] = list(collection)
        if difference := report_collection_diff(first, list(collection), "others", node.gateway.id):
            self._config.hook.pytest_collectreport(
                report=pytest.CollectReport(nodeid=node.gateway.id, outcome="failed", longrepr=difference, result=[])
            )
            node.shutdown()

    def schedule(self) -> None:
        """Fill the queue once, and give work to the workers that have too little."""
        if self._tests is None:
            self._tests = list(next(iter(self._collections.values())))
            files: dict[str, list[str]] = {}
            for test in self._tests:
                files.setdefault(test.partition("::")[0], []).append(test)
            costs = {file: self._cost(file, len(tests)) for file, tests in files.items()}
            self._queue.extend(files[file] for file in sorted(files, key=lambda file: -costs[file]))
        for node in self.nodes:
            self._feed(node)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Take the end of a test."""
        del self._pending[node][self._collections[node][item_index]]
        self._feed(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take the end of a worker; returns the test that it was running, or was about to run, when it died."""
        tests = deque(self._pending.pop(node))
        if not tests:
            return None
        crashed = tests.popleft()
        if tests:
            self._queue.appendleft(list(tests))
        for other in self.nodes:
            self._feed(other)
        return crashed

    def mark_test_pending(self, item: str) -> None:
        """Run a test once more: only other ways of distributing tests do that."""
        raise NotImplementedError(item)

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Take tests back from a worker: only other ways of distributing tests do that."""
        raise NotImplementedError(node, indices)

    def _feed(self, node: WorkerController) -> None:
        if node.shutting_down or node not in self._collections:
            return
        indices = {test: index for index, test in enumerate(self._collections[node])} if self._queue else {}
        while self._queue and len(self._pending[node]) < 2:
            tests = self._queue.popleft()
            self._pending[node].update(dict.fromkeys(tests))
            node.send_runtest_some([indices[test] for test in tests])
        if not self._queue:
            node.shutdown()
