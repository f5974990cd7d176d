#!/bin/sh
# Prints the first Python of version 3.11 or newer, or says what to install. PYTHON names one, of pyenv too.
set -eu

for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    # The command that pyenv puts on the PATH does not run a version that `pyenv global` leaves out.
    for candidate in "$name" ${PYTHON:+"${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$name"}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            exit 0
        fi
    done
done

if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is not Python 3.11 or newer." >&2
else
    echo "No Python 3.11 or newer is on the PATH." >&2
    echo "Install one (on Debian 12 and newer: apt-get install python3 python3-venv), or name it: make run PYTHON=/path/to/python3" >&2
fi
exit 1
