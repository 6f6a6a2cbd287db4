#!/usr/bin/env bash
# Checks the HTTP API against /openapi.json: runs all checks of schemathesis, as the provider and as a tenant.
#   usage: scripts/check-api.sh [SCHEMATHESIS-ARGUMENT…]
#   WHK, SCHEMATHESIS    paths of the two programs
#   SEED                 seed of the random requests (default: 1)
set -euo pipefail
cd "$(dirname "$0")/.."
WHK=${WHK:-${CARGO_TARGET_DIR:-target}/debug/whk}
SCHEMATHESIS=${SCHEMATHESIS:-target/schemathesis/bin/schemathesis}
DIR=target/check-api
unset MAX_RETRIES RETRY_DELAYS MAX_QUEUE_SIZE MAX_PAYLOAD_SIZE SERVER_PORT SERVER_HOSTNAME WHK_DATA_DIR WHK_LOG WHK_LOG_FORMAT

rm -rf "$DIR"
mkdir -p "$DIR"
"$WHK" --log-format json publish-server --port 0 --drain-timeout 1s --data-dir "$DIR/data" 2>"$DIR/server.log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT
port() { sed -n 's/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$DIR/server.log" | head -n 1; }
for _ in $(seq 100); do [[ -z $(port) ]] || break; sleep 0.1; done
[[ -n $(port) ]] || { echo "the server didn't start; see $DIR/server.log" >&2; exit 1; }
SERVER=http://127.0.0.1:$(port)

# run CONFIG: runs schemathesis with the API key in WHK_API_KEY.
run() {
  PYTHONPATH=tests/openapi "$SCHEMATHESIS" --config-file "tests/openapi/$1" run "$SERVER/openapi.json" \
    --checks all --continue-on-failure --max-examples 50 --seed "${SEED:-1}" --warnings off --no-color "${@:2}"
}

# of NAME PREFIX: prints one member of the JSON that the onboarding printed.
of() { sed -n "s/.*\"$1\":\"\($2[^\"]*\)\".*/\1/p" "$DIR/tenant.json"; }
onboard() {
  "$WHK" tenant onboard --server "$SERVER" --output json "$1" --public-key fixtures/keys/public_key.pem \
    --url https://hooks.example.com/whk --events '*' >"$DIR/tenant.json"
}
# bury NAME: makes dead letters of the tenant that was onboarded last, by disabling its endpoint. Sets WHK_MESSAGE to one.
bury() {
  "$WHK" send --server "$SERVER" --tenant "$1" --type invoice.paid --count 200 --output json >"$DIR/sent.json"
  "$WHK" tenant endpoint disable --server "$SERVER" --output json "$1" "$(of endpoint_id ep_)" >"$DIR/endpoint.json"
  for _ in $(seq 100); do
    "$WHK" dlq list --server "$SERVER" --tenant "$1" --limit 200 --output json >"$DIR/dead.json"
    [[ $(grep -o '"died_at"' "$DIR/dead.json" | wc -l) -lt 200 ]] || break
    sleep 0.1
  done
  WHK_MESSAGE=$(grep -o 'msg_[0-9a-f]*' "$DIR/dead.json" | tail -n 1)
  export WHK_MESSAGE
}

echo 'As the provider:'
WHK_API_KEY=$(<"$DIR/data/provider_key.txt")
export WHK_API_KEY
onboard 'Down'
bury 'Down'
run provider.toml "$@"

echo 'As a tenant:'
onboard 'Own API'
WHK_ENDPOINT=$(of endpoint_id ep_)
WHK_API_KEY=$(of api_key whk_tenant_)
export WHK_ENDPOINT
bury 'me'
"$WHK" tenant endpoint enable --server "$SERVER" --output json me "$WHK_ENDPOINT" >"$DIR/endpoint.json"
run tenant.toml "$@"

# A run in which every request was refused would prove little.
for done in 'tenant created' 'tenant changed' 'tenant deleted' 'API key created' 'public key is active' \
  'endpoint added' 'endpoint changed' 'endpoint deleted' 'signing secret rotated' \
  'dead letters replayed' 'dead letters purged'; do
  grep -q "\"$done\"" "$DIR/server.log" || { echo "no request led to '$done' in the log; see $DIR/server.log" >&2; exit 1; }
done
