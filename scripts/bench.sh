#!/usr/bin/env bash
# The load run behind README's figures: sender, server and customer on this machine, a bare forwarder beside them.
#   usage: scripts/bench.sh [--quick | --fan-out | --queues | --backlog [JOBS]]
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet --bench load -- "$@"
