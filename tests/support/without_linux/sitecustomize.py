"""Takes from a Python process what only Linux has; first on PYTHONPATH, it stands in for macOS."""

import builtins
import io
import os
import select
import signal
import socket
from typing import Any

LINUX_ONLY = {
    os: (
        *("sched_getaffinity", "sched_setaffinity", "memfd_create", "eventfd", "eventfd_read", "eventfd_write"),
        *("pidfd_open", "splice", "copy_file_range", "posix_fadvise", "getrandom", "pipe2", "getxattr", "setns"),
    ),
    select: ("epoll",),
    signal: ("SIGSTKFLT", "SIGPWR", "sigtimedwait", "sigwaitinfo"),
    socket: (
        *("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_DEFER_ACCEPT", "TCP_QUICKACK", "TCP_CORK", "TCP_INFO"),
        *("SO_PEERCRED", "SO_BINDTODEVICE", "SO_INCOMING_CPU", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "MSG_CMSG_CLOEXEC"),
    ),
}

for module, names in LINUX_ONLY.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _without_kernel_files(function: Any) -> Any:
    def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/sys/", "/dev/shm")):
            raise FileNotFoundError(2, "macOS has no such file", os.fspath(path))
        return function(path, *arguments, **named)

    return call


builtins.open = io.open = _without_kernel_files(io.open)
for name in ("stat", "listdir", "scandir", "open"):
    setattr(os, name, _without_kernel_files(getattr(os, name)))
_access = os.access
os.access = lambda path, *a, **k: (
    False if str(path).startswith(("/proc", "/sys/", "/dev/shm")) else _access(path, *a, **k)
)
