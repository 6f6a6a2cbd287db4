#!/usr/bin/env bash
# Kills the server again and again while events are published and a fifth of all attempts fail, then looks whether
# everything that was answered 202 has arrived.
#   usage: scripts/torture.sh [--rounds COUNT] [disk | redis]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=100
which=
while (($#)); do
  case $1 in
    --rounds) rounds=${2:?--rounds wants a number}; shift 2 ;;
    disk | redis) which=$1; shift ;;
    *) sed -n '2,4s/^# //p' "$0" >&2; exit 64 ;;
  esac
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { echo "--rounds wants a number of at least 1" >&2; exit 64; }
export WHK_TORTURE_ROUNDS=$rounds
exec cargo test --quiet --locked --test e2e "queue::torture::$which" -- --nocapture --test-threads 1
