#!/bin/sh
# Runs the portable tests on each supported Python that the machine has, except the one that ran all tests (the argument).
set -eu

here=$(dirname "$0")
tested=$("$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
absent=
for name in python3.11 python3.12 python3.13; do
    if [ "$name" = "$tested" ]; then
        echo "$name: ran all tests"
    elif PYTHON=$name "$here/find-python.sh" >/dev/null 2>&1; then
        echo "$name: runs the portable tests (make test-portable PYTHON=$name)"
        "${MAKE:-make}" --no-print-directory test-portable "PYTHON=$name"
    else
        absent="$absent $name"
    fi
done
if [ -n "$absent" ]; then
    echo "Not tested, because this machine does not have them:$absent"
fi
