#!/usr/bin/env bash
# Servers for tests, each on a free port, with what it keeps in target/services/NAME. Installs what is missing with
# apt-get where it is root.
#   usage: scripts/services.sh start redis    prints WHK_TEST_REDIS=redis://127.0.0.1:PORT once it answers
#          scripts/services.sh stop redis     ends the one that was started here
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }

# need PROGRAM PACKAGE: the program, installed where it is missing.
need() {
  command -v "$1" >/dev/null && return
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || { echo "$1 is missing; install $2" >&2; exit 1; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2"; } >/dev/null
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# stop_pid FILE: ends the process whose id is in a file, and waits until it has ended.
stop_pid() {
  [[ -f $1 ]] || return 0
  local pid
  pid=$(<"$1")
  kill "$pid" 2>/dev/null || true
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  rm -f "$1"
}

redis_start() {
  need redis-server redis-server
  need redis-cli redis-tools
  need python3 python3
  redis_stop
  mkdir -p "$dir"
  local port
  # Debian's package starts a server of its own on 6379; this is another.
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --pidfile "$dir/pid" --logfile "$dir/log" \
    --daemonize yes --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction >/dev/null
  for _ in {1..100}; do
    if [[ $(redis-cli -p "$port" ping 2>/dev/null) == PONG ]]; then
      echo "WHK_TEST_REDIS=redis://127.0.0.1:$port"
      return
    fi
    sleep 0.1
  done
  echo "redis-server doesn't answer; see $dir/log" >&2
  exit 1
}

redis_stop() {
  stop_pid "$dir/pid"
  rm -rf "$dir"
}

[[ $# == 2 && $2 == redis ]] || usage
dir=$PWD/target/services/$2
case $1 in
  start | stop) "$2_$1" ;;
  *) usage ;;
esac
