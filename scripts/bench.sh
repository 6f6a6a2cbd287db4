#!/usr/bin/env bash
# Measures throughput and latency: sender, server and customer run on this machine, beside a bare HTTP forwarder as the
# baseline. docs/benchmarks.md has the figures of one machine.
#   usage: scripts/bench.sh [--quick | --fan-out | --queues | --kafka | --backlog [JOBS]]
#   --quick      all but Kafka and the backlog, with a tenth of the events
#   --fan-out    one event published to up to 10,000 tenants
#   --queues     memory, disk and Redis beside each other
#   --kafka      publishing to Kafka, and one and three consumers; starts a broker
#   --backlog    a queue on disk with JOBS jobs for an endpoint that is down (default: 1,000,000)
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
