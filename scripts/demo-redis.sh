#!/usr/bin/env bash
# Two servers on one Redis: a tenant made at one is known to the other, both deliver, and neither a server nor Redis
# itself may lose an event when it is killed.
#   usage: scripts/demo-redis.sh [COUNT]    COUNT events, in quarters; WHK=path/to/whk uses that binary instead of
#                                           building one
set -euo pipefail
cd "$(dirname "$0")/.."
COUNT=$((${1:-200} / 4 * 4))
DIR=$PWD/target/demo-redis
for program in redis-server redis-cli curl; do
  command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 1; }
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

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || { echo "gave up waiting for: $*; see $DIR/*.log" >&2; exit 1; }
    sleep 0.1
  done
}
port_of() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$1" | tail -n 1; }
listens() { [[ -n $(port_of "$1") ]]; }
# end PID: kills it, without a word of the shell's.
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
# start_server NAME: a server with a data dir of its own; the secret key is shared.
start_server() {
  : >"$DIR/$1.log"
  "$WHK" --log-format json publish-server --port 0 --queue redis --redis-url "redis://127.0.0.1:$redis_port" \
    --secret-key-file "$DIR/secret.key" --data-dir "$DIR/$1" --allow-net 127.0.0.0/8 --delivery-timeout 2s \
    --retry-delays 200,400,800,1600 --max-retries 30 2>>"$DIR/$1.log" &
  pids+=($!)
  wait_for 10 listens "$DIR/$1.log"
}
url_of() { echo "http://127.0.0.1:$(port_of "$DIR/$1.log")"; }
# publish SERVER COUNT
publish() { "$WHK" send --server "$(url_of "$1")" --data-dir "$DIR/one" --subscribers --count "$2" --type invoice.paid; }
came() { cut -d '"' -f 4 "$DIR/acme.jsonl" | sort -u | wc -l; }
all_came() { (($(came) >= COUNT)); }

rm -rf "$DIR"
mkdir -p "$DIR/redis"
head -c 32 /dev/urandom | base64 >"$DIR/secret.key"
chmod 600 "$DIR/secret.key"

echo '1. redis-server, with a log that is synced before it answers'
start_redis
echo '2. whk publish-server --queue redis, twice'
start_server one
one_pid=${pids[-1]}
start_server two
echo '3. acme subscribes at the first; its customer fails one delivery in five'
"$WHK" keygen --out-dir "$DIR/acme" --signing-secret >>"$DIR/keygen.log"
: >"$DIR/customer.log"
"$WHK" --log-format json customer --port 0 --private-key "$DIR/acme/private_key.pem" \
  --secret-file "$DIR/acme/signing_secret.txt" --fail-rate 0.2 >"$DIR/acme.jsonl" 2>"$DIR/customer.log" &
pids+=($!)
wait_for 10 listens "$DIR/customer.log"
"$WHK" tenant --server "$(url_of one)" --data-dir "$DIR/one" onboard acme --public-key "$DIR/acme/public_key.pem" \
  --secret-file "$DIR/acme/signing_secret.txt" --url "$(url_of customer)/webhook" --events 'invoice.*' | sed -n 1,3p
echo "4. whk send: $((COUNT / 4)) events to each server; the second knows acme as well"
publish one $((COUNT / 4))
publish two $((COUNT / 4))
echo '5. the first server is killed; the second goes on'
end "$one_pid"
publish two $((COUNT / 4))
echo '6. Redis is killed and started again; the server goes on by itself'
end "$redis_pid"
start_redis
ready() { curl -fsS "$(url_of two)/readyz" >/dev/null 2>&1; }
wait_for 30 ready
publish two $((COUNT / 4))
wait_for 90 all_came
echo
printf '%d of %d different events came to acme, %d times in all\n' "$(came)" "$COUNT" "$(wc -l <"$DIR/acme.jsonl")"
