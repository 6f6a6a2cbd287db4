#!/usr/bin/env bash
# Runs the whole flow on this machine. Three customers subscribe, each with its own key, and events fan out by type. One
# customer rotates its key while it is offline. Each customer fails one delivery in five.
# Exits with 0 only if each customer received exactly the events it subscribed to.
#   usage: scripts/demo.sh [COUNT]    COUNT is the number of events, rounded down to a multiple of 18 (default: 180)
#   WHK=path/to/whk    uses that binary instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
COUNT=$((${1:-180} / 18 * 18))
DIR=target/demo
command -v curl >/dev/null || { echo 'curl is missing; the demo reads the metrics with it' >&2; exit 1; }
# The environment may hold settings of the caller's own server, which would change the demo.
unset MAX_RETRIES RETRY_DELAYS MAX_QUEUE_SIZE MAX_PAYLOAD_SIZE SERVER_PORT SERVER_HOSTNAME WHK_LOG WHK_LOG_FORMAT
unset WHK_API_KEY WHK_DATA_DIR WHK_SERVER

if [[ -z ${WHK:-} ]]; then
  echo 'Building whk without Kafka (a few minutes the first time)'
  # Kafka's client and LTO take more than half of a build's time, and the demo needs neither.
  cargo build --quiet --profile quick --locked --no-default-features
  WHK=${CARGO_TARGET_DIR:-target}/quick/whk
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

# port_of LOG: prints the port that a server listens on, from its log.
port_of() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$1" | tail -n 1; }
listens() { [[ -n $(port_of "$1") ]]; }

# counter NAME: prints one of the server's counters.
counter() { curl -fsS "http://127.0.0.1:$port/metrics" | sed -n "s/^whk_$1 //p"; }
settled() { (($(counter jobs_delivered_total) + $(counter jobs_dead_total) >= COUNT * 2)); }

# customer NAME ARGUMENT…: starts a customer that fails one delivery in five.
customer() {
  local name=$1; shift
  : >"$DIR/$name.log"
  "$WHK" --log-format json customer "$@" --private-key "$DIR/$name/private_key.pem" \
    --secret-file "$DIR/$name/signing_secret.txt" --fail-rate 0.2 >>"$DIR/$name.jsonl" 2>"$DIR/$name.log" &
  pids+=($!)
  wait_for 10 listens "$DIR/$name.log"
}

# publish COUNT: publishes COUNT events to their subscribers, of three types in turn.
publish() {
  "$WHK" send --server "$server" --data-dir "$DIR/data" --subscribers --count "$1" \
    --type invoice.paid --type invoice.sent --type user.created
}

rm -rf "$DIR"
mkdir -p "$DIR"

echo '1. whk keygen: three customers create key pairs, and acme creates a second one'
for name in acme globex initech acme-next; do
  "$WHK" keygen --out-dir "$DIR/$name" --signing-secret >>"$DIR/keygen.log"
done

echo '2. whk publish-server: the provider starts its server'
"$WHK" --log-format json publish-server --port 0 --allow-net 127.0.0.0/8 --data-dir "$DIR/data" \
  --retry-delays 200,400,800,1600,3200 --max-retries 12 2>"$DIR/server.log" &
pids+=($!)
wait_for 10 listens "$DIR/server.log"
port=$(port_of "$DIR/server.log")
server=http://127.0.0.1:$port
tenant() { "$WHK" tenant --server "$server" --data-dir "$DIR/data" "$@"; }

echo '3. whk customer, whk tenant onboard: the customers start and subscribe'
# onboard NAME TYPES: subscribes a running customer to those types.
onboard() {
  tenant onboard "$1" --public-key "$DIR/$1/public_key.pem" --secret-file "$DIR/$1/signing_secret.txt" \
    --url "http://127.0.0.1:$(port_of "$DIR/$1.log")/webhook" --events "$2"
}
customer acme --port 0
acme_pid=${pids[-1]}
customer globex --port 0
customer initech --port 0
onboard acme 'invoice.*'
onboard globex '*' | sed -n 1,3p
onboard initech user.created | sed -n 1,3p

echo "4. whk send: the provider publishes $((COUNT / 2)) events"
publish $((COUNT / 2))

echo '5. acme goes offline; its events wait in the queue, encrypted with its old key'
acme_port=$(port_of "$DIR/acme.log")
{ kill -9 "$acme_pid" && wait "$acme_pid"; } 2>/dev/null || true
publish $((COUNT / 6))

echo '6. whk tenant key add: acme rotates its key; later events are encrypted with the new key'
tenant key add acme --public-key "$DIR/acme-next/public_key.pem"
publish $((COUNT / 3))

echo '7. acme comes back with both private keys and decrypts all of its events'
customer acme --port "$acme_port" --private-key "$DIR/acme-next/private_key.pem"
wait_for 90 settled
tenant key retire acme "$(tenant key list acme | awk '$2 == "retiring" { print $1 }')" >/dev/null
tenant key list acme

echo
echo 'One event as acme decrypted it:'
tail -n 1 "$DIR/acme.jsonl"
echo
printf '%-12s%s\n' 'messages' "$(counter jobs_published_total)" delivered "$(counter jobs_delivered_total)" \
  attempts "$(counter attempts_total)" retried "$(counter retries_total)" dead "$(counter jobs_dead_total)"
echo
# received NAME TYPE…: prints how many distinct messages a customer received. Fails if one has another type.
received() {
  local name=$1; shift
  local types; types=$(IFS='|'; echo "$*")
  if grep -vqE "\"type\":\"($types)\"" "$DIR/$name.jsonl"; then
    echo "$name received an event of a type it didn't subscribe to; see $DIR/$name.jsonl" >&2
    exit 1
  fi
  cut -d '"' -f 4 "$DIR/$name.jsonl" | sort -u | wc -l
}
# expect NAME COUNT TYPE…: fails unless a customer received COUNT distinct messages of those types.
expect() {
  local name=$1 wanted=$2 got; shift 2
  got=$(received "$name" "$@")
  if ((got != wanted)); then
    echo "$name received $got of $wanted events; see $DIR/*.log" >&2
    exit 1
  fi
  printf '%-8s received %3d of %3d events: %s\n' "$name" "$got" "$wanted" "$*"
}
expect acme $((COUNT / 3 * 2)) invoice.paid invoice.sent
expect globex "$COUNT" invoice.paid invoice.sent user.created
expect initech $((COUNT / 3)) user.created
