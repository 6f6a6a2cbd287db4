#!/usr/bin/env bash
# Installs the libraries that the example receivers under fixtures/receivers name, and prints the variable that tells
# the tests where they are. Needs Node.js 20 or newer and Python 3 with venv.
#   usage: eval "$(scripts/interop.sh | sed 's/^/export /')"
set -euo pipefail
cd "$(dirname "$0")/.."

(cd fixtures/receivers/node && npm ci --loglevel=error) >&2
[[ -x target/venv/bin/python ]] || python3 -m venv target/venv >&2
target/venv/bin/pip install --quiet --disable-pip-version-check -r fixtures/receivers/python/requirements.txt >&2
echo "WHK_INTEROP=$PWD/target/venv/bin/python"
