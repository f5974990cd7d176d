"""The command `starling` run in the process of the test, which is a hundred times as fast as a process of its own."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from typer.testing import CliRunner

from starling.cli.entry import cli


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with `given` as standard input and `environment` for the whole environment.

    Its output goes to no terminal. What it raises besides its own end is raised here.
    """
    removed = dict.fromkeys(os.environ.keys() - environment.keys())
    done = CliRunner().invoke(cli, arguments, input=given, env={**removed, **environment})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(["starling", *arguments], done.exit_code, done.stdout, done.stderr)
