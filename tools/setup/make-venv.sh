#!/bin/sh
# Makes the virtual environment named by the argument; one that works is left as it is.
set -eu

venv=$1
if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

here=$(dirname "$0")
python=$("$here/find-python.sh")
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    # Debian and Ubuntu ship Python without the module that makes virtual environments.
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing $package: $python cannot make a virtual environment without it."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    else
        echo "$python cannot make a virtual environment. On Debian or Ubuntu run: sudo apt-get install $package" >&2
        exit 1
    fi
fi

echo "Making $venv with $("$python" --version) ($python)"
"$python" -m venv --clear "$venv"
