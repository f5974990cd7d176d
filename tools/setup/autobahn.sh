#!/usr/bin/env bash
# Installs the Autobahn test suite, a program for Python 2.7, into DIR: `autobahn.sh DIR`; DIR/bin/wstest is its command.
# PYTHON2 is a CPython 2.7 with pip; without it python2.7 on the PATH counts, then the newest one of pyenv.
set -euo pipefail

directory=${1:?usage: autobahn.sh DIR}
if [ -x "$directory/bin/wstest" ]; then
    exit 0
fi
python=${PYTHON2:-$(command -v python2.7 || true)}
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
    python=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -path '*/2.7*/bin/python' 2>/dev/null | sort -V | tail -n 1)
fi
if [ -z "$python" ]; then
    echo "No CPython 2.7 was found: set PYTHON2 to one, or WSTEST to an installed wstest (docs/conformance.md)." >&2
    exit 3
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_PYTHON_VERSION_WARNING=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip install --quiet --target "$work" 'virtualenv<20.16'
PYTHONPATH=$work "$python" -m virtualenv --quiet "$directory"
install=("$directory/bin/python" -m pip install --quiet)
"${install[@]}" setuptools==44.0.0 incremental==16.10.1 txaio==2.1.0 six==1.16.0 zope.interface==4.6.0 Twisted==19.10.0
"${install[@]}" autobahn==0.10.9 wsaccel==0.6.3 jinja2==2.11.3 markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 \
    unittest2==1.1.0 cryptography==3.3.2 pyOpenSSL==19.1.0 service_identity==18.1.0
"${install[@]}" --no-deps autobahntestsuite==25.10.1
