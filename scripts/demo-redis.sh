#!/usr/bin/env bash
# Runs two servers on one Redis. A tenant created on one server is known to the other, and both deliver. No event is lost
# when a server, and then Redis, is killed with SIGKILL.
#   usage: scripts/demo-redis.sh [COUNT]    COUNT is the number of events, rounded down to a multiple of 4 (default: 200)
#   WHK=path/to/whk    uses that binary instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
COUNT=$((${1:-200} / 4 * 4))
DIR=$PWD/target/demo-redis
for program in redis-server redis-cli curl; do
  command -v "$program" >/dev/null || { echo "$program is missing; install it and run the demo again" >&2; exit 1; }
done
unset MAX_RETRIES RETRY_DELAYS MAX_QUEUE_SIZE MAX_PAYLOAD_SIZE SERVER_PORT SERVER_HOSTNAME REDIS_URL WHK_LOG
unset WHK_LOG_FORMAT WHK_API_KEY WHK_DATA_DIR WHK_SERVER

if [[ -z ${WHK:-} ]]; then
  echo 'Building whk (release; a few minutes the first time)'
  cargo build --quiet --release --locked
  WHK=${CARGO_TARGET_DIR:-target}/release/whk
fi

pids=()
stop() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; }
trap stop EXIT

# wait_for SECONDS COMMAND…: waits until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || { echo "timed out waiting for: $*; see $DIR/*.log" >&2; exit 1; }
    sleep 0.1
  done
}
port_of() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$1" | tail -n 1; }
listens() { [[ -n $(port_of "$1") ]]; }
# end PID: kills a process, without the message that the shell prints of it.
end() { { kill -9 "$1" && wait "$1"; } 2>/dev/null || true; }

redis_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
answers() { [[ $(redis-cli -p "$redis_port" ping 2>/dev/null) == PONG ]]; }
start_redis() {
  redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$DIR/redis" --save '' --appendonly yes \
    --appendfsync always >>"$DIR/redis.log" &
  redis_pid=$!
  pids+=("$redis_pid")
  wait_for 10 answers
}
# start_server NAME: starts a server with its own data dir. All servers share the secret key.
start_server() {
  : >"$DIR/$1.log"
  "$WHK" --log-format json publish-server --port 0 --queue redis --redis-url "redis://127.0.0.1:$redis_port" \
    --secret-key-file "$DIR/secret.key" --data-dir "$DIR/$1" --allow-net 127.0.0.0/8 --delivery-timeout 2s \
    --retry-delays 200,400,800,1600 --max-retries 30 2>>"$DIR/$1.log" &
  pids+=($!)
  wait_for 10 listens "$DIR/$1.log"
}
url_of() { echo "http://127.0.0.1:$(port_of "$DIR/$1.log")"; }
# publish SERVER COUNT: publishes COUNT events through that server.
publish() { "$WHK" send --server "$(url_of "$1")" --data-dir "$DIR/one" --subscribers --count "$2" --type invoice.paid; }
received() { cut -d '"' -f 4 "$DIR/acme.jsonl" | sort -u | wc -l; }
all_received() { (($(received) >= COUNT)); }

rm -rf "$DIR"
mkdir -p "$DIR/redis"
head -c 32 /dev/urandom | base64 >"$DIR/secret.key"
chmod 600 "$DIR/secret.key"

echo '1. redis-server starts; it syncs its log to disk before each answer'
start_redis
echo '2. whk publish-server --queue redis: two servers start'
start_server one
one_pid=${pids[-1]}
start_server two
echo '3. acme subscribes through the first server; its customer fails one delivery in five'
"$WHK" keygen --out-dir "$DIR/acme" --signing-secret >>"$DIR/keygen.log"
: >"$DIR/customer.log"
"$WHK" --log-format json customer --port 0 --private-key "$DIR/acme/private_key.pem" \
  --secret-file "$DIR/acme/signing_secret.txt" --fail-rate 0.2 >"$DIR/acme.jsonl" 2>"$DIR/customer.log" &
pids+=($!)
wait_for 10 listens "$DIR/customer.log"
"$WHK" tenant --server "$(url_of one)" --data-dir "$DIR/one" onboard acme --public-key "$DIR/acme/public_key.pem" \
  --secret-file "$DIR/acme/signing_secret.txt" --url "$(url_of customer)/webhook" --events 'invoice.*' | sed -n 1,3p
echo "4. whk send: $((COUNT / 4)) events through each server; both know acme"
publish one $((COUNT / 4))
publish two $((COUNT / 4))
echo '5. The first server is killed; the second delivers its events too'
end "$one_pid"
publish two $((COUNT / 4))
echo '6. Redis is killed and restarted; the server reconnects'
end "$redis_pid"
start_redis
ready() { curl -fsS "$(url_of two)/readyz" >/dev/null 2>&1; }
wait_for 30 ready
publish two $((COUNT / 4))
wait_for 90 all_received
echo
printf 'acme received %d of %d events, %d counting repeated ones\n' "$(received)" "$COUNT" "$(wc -l <"$DIR/acme.jsonl")"
