#!/bin/sh
# Prints the first Python of version 3.11 or newer, or says what to install.
set -eu

for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        command -v "$name"
        exit 0
    fi
done

if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is not Python 3.11 or newer." >&2
else
    echo "No Python 3.11 or newer is on the PATH." >&2
    echo "Install one (on Debian 12 and newer: apt-get install python3 python3-venv), or name it: make run PYTHON=/path/to/python3" >&2
fi
exit 1
