"""Public: tests of an application with the whole service in the test's own event loop, without a port or a thread.

As a pytest plugin of the installed package it gives the fixture `starling`, a RunningService in memory.
"""

from starling.testing.client import ExpectationFailed, ServiceClient
from starling.testing.service import API_KEY, RunningService, service

__all__ = ["API_KEY", "ExpectationFailed", "RunningService", "ServiceClient", "service"]
