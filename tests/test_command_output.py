"""Commands whose standard output cannot be written: one line says so, without a traceback."""

import subprocess

import pytest

from tests.test_cli import COMMAND, environment, run

pytestmark = pytest.mark.processes


def in_shell(redirected: str, arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"exec {COMMAND} {arguments} {redirected}"
    variables = environment(DEV="true", TOKEN_HMAC_SECRET="x" * 32)
    return subprocess.run(
        ["/bin/sh", "-c", script], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "arguments", ["check", "check --json", "settings", "settings --json", "token alice", "version"]
)
def test_a_command_whose_output_is_on_a_full_disk_says_so_in_one_line(arguments: str) -> None:
    done = in_shell(">/dev/full", arguments)
    assert done.stderr == "cannot write to standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", ["serve", "check", "version"])
def test_a_command_without_standard_output_says_so_in_one_line(arguments: str) -> None:
    done = in_shell(">&-", arguments)
    assert done.stderr == "standard output is closed: give the command one, /dev/null at least\n"
    assert done.returncode == 2


def test_a_failure_is_still_its_own_line() -> None:
    done = run("check", PORT="no number")
    assert done.stderr.startswith("STARLING_PORT")
