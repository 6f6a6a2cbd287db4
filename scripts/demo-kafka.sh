#!/usr/bin/env bash
# Runs the numbered steps on Apache Kafka: topics, a server that accepts events, three consumers that deliver them, and a
# customer. Then one consumer is killed, and the other two take over its partitions.
#   usage: scripts/demo-kafka.sh
#   WHK=path/to/whk            uses that binary instead of building one
#   KAFKA_BROKERS=host:port    uses that Kafka instead of starting one, and deletes and creates the topics whk-demo…
set -euo pipefail
cd "$(dirname "$0")/.."
DIR=$PWD/target/demo-kafka
COUNT=150
for program in curl python3; do
  command -v "$program" >/dev/null || { echo "$program is missing; install it and run the demo again" >&2; exit 1; }
done
unset MAX_RETRIES RETRY_DELAYS MAX_QUEUE_SIZE MAX_PAYLOAD_SIZE SERVER_PORT SERVER_HOSTNAME REDIS_URL WHK_LOG
unset WHK_LOG_FORMAT WHK_API_KEY WHK_DATA_DIR WHK_SERVER WHK_SECRET_KEY_FILE SESSION_TIMEOUT PARTITIONS_CONCURRENCY

if [[ -z ${WHK:-} ]]; then
  echo 'Building whk (release; a few minutes the first time)'
  cargo build --quiet --release --locked
  WHK=${CARGO_TARGET_DIR:-target}/release/whk
fi

pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
  if [[ -n ${own_kafka:-} ]]; then scripts/services.sh stop kafka kafka-demo; fi
}
trap stop EXIT

# wait_for SECONDS COMMAND…: waits until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || { echo "timed out waiting for: $*; see $DIR/*.log" >&2; exit 1; }
    sleep 0.1
  done
}
port_of() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$DIR/$1.log" | tail -n 1; }
listens() { [[ -n $(port_of "$1") ]]; }
# start NAME COMMAND…: starts a whk command in the background, with a log of that name.
start() {
  local name=$1; shift
  : >"$DIR/$name.log"
  "$WHK" --log-format json "$@" 2>"$DIR/$name.log" >"$DIR/$name.out" &
  pids+=($!)
  wait_for 30 listens "$name"
}
# partitions_of NAME, delivered_by NAME: print a consumer's partitions, and the number of jobs it has delivered.
partitions_of() { sed -n 's/.*"now":"\(\[[^]]*\]\)".*/\1/p' "$DIR/$1.log" | tail -n 1; }
delivered_by() { curl -fsS "http://127.0.0.1:$(port_of "$1")/metrics" | sed -n 's/^whk_jobs_delivered_total //p'; }
show() {
  for name in "$@"; do
    printf '   %s: partitions %-18s %4d delivered\n' "$name" "$(partitions_of "$name")" "$(delivered_by "$name")"
  done
}
# have_all NAME…: succeeds if those consumers have all partitions between them, and each has at least one.
have_all() {
  local all='' name
  for name in "$@"; do
    [[ $(partitions_of "$name") == *[0-9]* ]] || return 1
    all+=" $(partitions_of "$name")"
  done
  [[ $(tr -dc '0-9 ' <<<"$all" | wc -w) == 6 ]]
}
received() { cut -d '"' -f 4 "$DIR/customer.out" | sort -u | wc -l; }
all_received() { (($(received) >= $1)); }
send() {
  "$WHK" send --server "http://127.0.0.1:$(port_of server)" --profile kafka \
    --webhook-url "http://127.0.0.1:$(port_of customer)/webhook" | sed -n 1p
}

rm -rf "$DIR"
mkdir -p "$DIR"
if [[ -z ${KAFKA_BROKERS:-} ]]; then
  echo 'Starting Apache Kafka'
  own_kafka=yes
  KAFKA_BROKERS=$(scripts/services.sh start kafka kafka-demo | sed -n 's/^WHK_TEST_KAFKA=//p')
fi
export KAFKA_BROKERS
kafka=(--kafka-topic whk-demo --kafka-registry-topic whk-demo.tenants)
local_only=(--allow-net 127.0.0.0/8)

echo '0.  whk kafka-setup: create the topics'
"$WHK" kafka-setup "${kafka[@]}" --recreate --yes 2>"$DIR/setup.log" | sed -n '1,7p;20p'
echo '1.  whk keygen --signing-secret: create a key pair and a signing secret'
"$WHK" keygen --out-dir "$DIR/keys" --signing-secret >"$DIR/keygen.log"
signed=(--signing-secret-file "$DIR/keys/signing_secret.txt")
echo '2.  whk publish-server --queue kafka: accept events'
start server publish-server --port 0 --queue kafka "${kafka[@]}" --data-dir "$DIR/data" \
  --public-key "$DIR/keys/public_key.pem" "${signed[@]}" "${local_only[@]}"
echo '2b. whk consume-kafka: three consumers deliver'
for name in first second third; do
  start "$name" consume-kafka --port 0 --session-timeout 6s "${kafka[@]}" "${signed[@]}" "${local_only[@]}" \
    --data-dir "$DIR/data" --retry-delays 200,400,800,1600 --max-retries 20
  declare "${name}_pid=${pids[-1]}"
done
wait_for 60 have_all first second third
echo '3.  whk customer: receive events; one delivery in five fails'
start customer customer --port 0 --private-key "$DIR/keys/private_key.pem" \
  --secret-file "$DIR/keys/signing_secret.txt" --fail-rate 0.2
echo '4.  whk send --profile kafka: publish events'
send
wait_for 60 all_received "$COUNT"
show first second third
printf 'the customer received %d of %d events\n' "$(received)" "$COUNT"
echo
echo 'The second consumer is killed; after its session timeout the others take over its partitions'
{ kill -9 "$second_pid" && wait "$second_pid"; } 2>/dev/null || true
killed=$SECONDS
send
wait_for 60 have_all first third
wait_for 60 all_received $((2 * COUNT))
show first third
printf 'the customer received %d of %d events, %d counting repeated ones; the takeover took at most %d s\n' \
  "$(received)" $((2 * COUNT)) "$(wc -l <"$DIR/customer.out")" $((SECONDS - killed))
