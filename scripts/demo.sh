#!/usr/bin/env bash
# The main job, end to end, on this machine alone: keys, a publish-server, a customer that fails one delivery in
# five, a hundred events. Ends with 0 only if all of them came.
#   usage: scripts/demo.sh [COUNT]        WHK=path/to/whk uses that binary instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
COUNT=${1:-100}
DIR=target/demo
command -v curl >/dev/null || { echo 'curl is missing; the demo reads the counters with it' >&2; exit 1; }
# The demo sets what it needs; settings of the caller's own server aren't for it.
unset MAX_RETRIES RETRY_DELAYS MAX_QUEUE_SIZE MAX_PAYLOAD_SIZE SERVER_PORT SERVER_HOSTNAME WHK_LOG WHK_LOG_FORMAT

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

# port_of LOG: the port that a server says it listens on.
port_of() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$1" | head -n 1; }
listens() { [[ -n $(port_of "$1") ]]; }

# counter NAME: one of the server's counters.
counter() { curl -fsS "http://127.0.0.1:$server/metrics" | sed -n "s/^whk_$1 //p"; }
settled() { (($(counter jobs_delivered_total) + $(counter jobs_dead_total) >= COUNT)); }

rm -rf "$DIR"

echo '1. whk keygen: the customer makes its keys'
"$WHK" keygen --out-dir "$DIR" --signing-secret

echo '2. whk publish-server: the provider, with the public key'
"$WHK" --log-format json publish-server --port 0 --allow-net 127.0.0.0/8 --public-key "$DIR/public_key.pem" \
  --signing-secret-file "$DIR/signing_secret.txt" --retry-delays 200,400,800,1600,3200 2>"$DIR/server.log" &
pids+=($!)

echo '3. whk customer: with the private key, failing one delivery in five'
"$WHK" --log-format json customer --port 0 --private-key "$DIR/private_key.pem" \
  --secret-file "$DIR/signing_secret.txt" --fail-rate 0.2 >"$DIR/events.jsonl" 2>"$DIR/customer.log" &
pids+=($!)
wait_for 10 listens "$DIR/server.log"
wait_for 10 listens "$DIR/customer.log"
server=$(port_of "$DIR/server.log")

echo "4. whk send: $COUNT events"
"$WHK" send --server "http://127.0.0.1:$server" --count "$COUNT" \
  --webhook-url "http://127.0.0.1:$(port_of "$DIR/customer.log")/webhook"
wait_for 60 settled

came=$(cut -d '"' -f 4 "$DIR/events.jsonl" | sort -u | wc -l)
echo
echo 'One event as the customer reads it:'
head -n 1 "$DIR/events.jsonl"
echo
printf '%-12s%s\n' published "$(counter jobs_published_total)" delivered "$(counter jobs_delivered_total)" \
  attempts "$(counter attempts_total)" retried "$(counter retries_total)" dead "$(counter jobs_dead_total)"
echo
if ((came != COUNT)); then
  echo "only $came of $COUNT events came; see $DIR/*.log" >&2
  exit 1
fi
echo "$came of $COUNT events came, each decrypted by the customer alone."
