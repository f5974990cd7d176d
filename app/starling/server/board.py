"""What the processes of one pod know of each other, in memory that they share: made before the first fork.

No file and no disk is between them, so a full disk makes no worker invisible. Each number is one aligned write of eight
bytes; a report is read again where it was written meanwhile.
"""

import mmap
import os
import time
from collections.abc import Iterator

SLOTS = 256
SLOT_BYTES = 1024
HEADER_BYTES = 64
REPORT_AT = 64
# What a reload may hand to the workers; memory is only taken for what is used.
CONFIGURATION_BYTES = 8 * 2**20

# Header, each a double.
_STOPPING, _RESTARTS, _VERSION, _RELOAD_FAILED, _CONFIGURATION_LENGTH = range(5)
# Slot, each a double.
_PID, _BEAT, _APPLIED, _ASKED, _REPORT_LENGTH = range(5)
_RESERVED = -1.0


class Slot:
    """One worker's part of the board: `numbers` are its doubles, `report_room` the bytes for its report."""

    def __init__(self, numbers: "memoryview[float]", report_room: memoryview) -> None:
        self._numbers = numbers
        self._report_room = report_room

    @property
    def pid(self) -> int:
        """The worker's process id; 0 for a slot that is free, -1 for one whose worker is being forked."""
        return int(self._numbers[_PID])

    @property
    def beat(self) -> float:
        """When its event loop last turned, on the monotonic clock."""
        return float(self._numbers[_BEAT])

    @property
    def applied(self) -> int:
        """The version of the configuration that it has."""
        return int(self._numbers[_APPLIED])

    @applied.setter
    def applied(self, version: int) -> None:
        self._numbers[_APPLIED] = float(version)

    @property
    def asked(self) -> bool:
        """Whether its end was asked for."""
        return bool(self._numbers[_ASKED])

    @property
    def report(self) -> bytes:
        """What it reports of itself, JSON; empty before its first report."""
        length = int(self._numbers[_REPORT_LENGTH])
        return bytes(self._report_room[:length])

    def reserve(self) -> None:
        """Keep the slot for a worker that is about to be forked."""
        for index in range(len(self._numbers)):
            self._numbers[index] = 0.0
        self._numbers[_PID] = _RESERVED

    def enter(self) -> None:
        """Begin, in the worker."""
        self.heartbeat()
        self._numbers[_PID] = float(os.getpid())

    def heartbeat(self) -> None:
        """Show that the event loop turns."""
        self._numbers[_BEAT] = time.monotonic()

    def write_report(self, report: bytes) -> None:
        """Report. What has no room, as no report should, is left out."""
        if len(report) <= len(self._report_room):
            self._numbers[_REPORT_LENGTH] = 0.0
            self._report_room[: len(report)] = report
            self._numbers[_REPORT_LENGTH] = float(len(report))

    def ask_to_end(self) -> None:
        """Note that the end of this worker was asked for, so that it is no restart."""
        self._numbers[_ASKED] = 1.0

    def release(self) -> None:
        """Free the slot: its worker has ended."""
        self._numbers[_PID] = 0.0


class Board:
    """The shared memory: the master's numbers, a slot for each worker, and the configuration of the last reload."""

    def __init__(self) -> None:
        slots_end = HEADER_BYTES + SLOTS * SLOT_BYTES
        self._memory = memoryview(mmap.mmap(-1, slots_end + CONFIGURATION_BYTES))
        self._header = self._memory[:HEADER_BYTES].cast("d")
        self._configuration = self._memory[slots_end:]
        self._slots = [
            Slot(self._memory[at : at + REPORT_AT].cast("d"), self._memory[at + REPORT_AT : at + SLOT_BYTES])
            for at in range(HEADER_BYTES, slots_end, SLOT_BYTES)
        ]

    def workers(self) -> Iterator[Slot]:
        """The slots of the workers that run."""
        return (slot for slot in self._slots if slot.pid > 0)

    def heartbeats(self) -> dict[int, float]:
        """Each worker's process id and the seconds since its last heartbeat."""
        now = time.monotonic()
        return {slot.pid: now - slot.beat for slot in self.workers()}

    def claim(self) -> Slot:
        """Reserve a slot for a worker that is about to be forked. Raises RuntimeError where all are taken."""
        for slot in self._slots:
            if slot.pid == 0:
                slot.reserve()
                return slot
        raise RuntimeError(f"over {SLOTS} workers of this pod run or end")

    def slot_of(self, pid: int) -> Slot | None:
        """The slot of the worker `pid`."""
        return next((slot for slot in self.workers() if slot.pid == pid), None)

    @property
    def stopping(self) -> bool:
        """Whether the pod was asked to stop."""
        return bool(self._header[_STOPPING])

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._header[_STOPPING] = float(value)

    @property
    def restarts(self) -> int:
        """Workers that ended though nobody asked for it."""
        return int(self._header[_RESTARTS])

    def count_restart(self) -> None:
        """Count a worker that ended though nobody asked for it."""
        self._header[_RESTARTS] += 1.0

    @property
    def version(self) -> int:
        """The version of the configuration that workers should have; 1 from the start, one more at each reload."""
        return int(self._header[_VERSION]) + 1

    @property
    def reload_failed(self) -> bool:
        """Whether the last reload found a mistake, and changed nothing."""
        return bool(self._header[_RELOAD_FAILED])

    @reload_failed.setter
    def reload_failed(self, value: bool) -> None:
        self._header[_RELOAD_FAILED] = float(value)

    def read_configuration(self) -> tuple[int, bytes] | None:
        """What the last reload handed out, with its version; None before the first, and while it is written."""
        version, length = self.version, self._header[_CONFIGURATION_LENGTH]
        found = bytes(self._configuration[: int(length)])
        changed = version != self.version or length != self._header[_CONFIGURATION_LENGTH]
        return None if changed or not length else (version, found)

    def hand_out(self, configuration: bytes) -> int:
        """Hand `configuration` to the workers and return its version. Raises ValueError for one that is too large."""
        if len(configuration) > len(self._configuration):
            raise ValueError(f"what was read has over {len(self._configuration)} bytes")
        self._header[_CONFIGURATION_LENGTH] = 0.0
        self._configuration[: len(configuration)] = configuration
        self._header[_CONFIGURATION_LENGTH] = float(len(configuration))
        self._header[_VERSION] += 1.0
        return self.version
