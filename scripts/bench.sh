#!/usr/bin/env bash
# The load run behind README's figures: sender, server and customer on this machine, a bare forwarder beside them.
#   usage: scripts/bench.sh [--quick | --fan-out | --queues | --kafka | --backlog [JOBS]]
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == --kafka ]]; then
  trap 'scripts/services.sh stop kafka kafka-bench' EXIT
  WHK_TEST_KAFKA=$(scripts/services.sh start kafka kafka-bench | sed -n 's/^WHK_TEST_KAFKA=//p')
  export WHK_TEST_KAFKA
  cargo bench --quiet --bench load -- "$@"
  exit
fi
exec cargo bench --quiet --bench load -- "$@"
