#!/usr/bin/env bash
# Kills servers, Redis or Kafka again and again while events are published and a fifth of all attempts fail. Fails unless
# every event that was answered 202 arrives.
#   usage: scripts/torture.sh [--rounds COUNT] [disk | redis | kafka]
#   --rounds    kills of each kind (default: 100)
#   Without a queue it runs disk and redis. kafka needs `scripts/services.sh start kafka` and its variables.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" >&2; exit 64; }
rounds=100
which=
while (($#)); do
  case $1 in
    --rounds) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo '--rounds takes a number of at least 1' >&2; exit 64; }; rounds=$2; shift 2 ;;
    disk | redis | kafka) which=$1; shift ;;
    *) usage ;;
  esac
done
export WHK_TORTURE_ROUNDS=$rounds
filter="queue::torture::$which"
[[ $which != kafka ]] || filter='queue::kafka_torture::'
exec cargo test --quiet --locked --test e2e "$filter" -- --include-ignored --nocapture --test-threads 1
