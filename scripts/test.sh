#!/usr/bin/env bash
# Runs every check that a change must pass: format, lints, documentation, tests against real services and libraries, the
# HTTP API against its own description, the demos, licences. Continuous integration runs the same. It takes at most 40
# minutes from an empty cache on two cores.
# Installs what it needs: under target/, and with apt-get if the user is root and a program is missing.
#   usage: scripts/test.sh [--full]
#   --full    adds what is long: hundreds of kills of servers, Redis and Kafka; three Kafka brokers killed in turn; a
#             backlog of a million jobs; a quick load run. Run it before a release.
set -euo pipefail
cd "$(dirname "$0")/.."

DENY_VERSION=0.20.2
# Kills of each kind with --full; without it a test kills 20 times.
FULL_ROUNDS=100

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" >&2; exit 64; }
full=
case "$#${1:-}" in
  0) ;;
  1--full) full=yes ;;
  *) usage ;;
esac

step() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }

# install PACKAGE: installs a package with apt-get.
install() {
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || { echo "$1 is missing; install it" >&2; exit 1; }
  [[ -n ${APT_UPDATED:-} ]] || { apt-get update -qq; APT_UPDATED=yes; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >/dev/null
}

# need PROGRAM PACKAGE: installs the package if the program is missing.
need() { command -v "$1" >/dev/null || install "$2"; }

step 'programs'
need cc gcc
need c++ g++
need make make
# The build of OpenSSL needs modules that the smallest installation of Perl lacks.
perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1 2>/dev/null || install perl
need node nodejs
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ||
  { echo "the example receivers need Node.js 20 or newer; this is $(node --version)" >&2; exit 1; }
need npm npm
need python3 python3
need curl curl
need prlimit util-linux
python3 -c 'import ensurepip' 2>/dev/null || need python3-venv python3-venv
if ! cargo deny --version 2>/dev/null | grep -qF "$DENY_VERSION"; then
  cargo install --quiet --locked --root target/tools --version "$DENY_VERSION" cargo-deny
fi
export PATH="$PWD/target/tools/bin:$PATH"

step 'libraries of the example receivers'
variable=$(scripts/interop.sh)
export "${variable?}"

step 'schemathesis'
[[ -x target/schemathesis/bin/python ]] || python3 -m venv target/schemathesis
target/schemathesis/bin/pip install --quiet --disable-pip-version-check -r tests/openapi/requirements.txt

step 'Redis, Kafka'
stop() {
  local code=$?
  scripts/services.sh stop redis
  scripts/services.sh stop kafka
  ((code == 0)) || echo "failed; the logs of the services are target/services/*.log" >&2
}
trap stop EXIT
# services.sh prints VARIABLE=value lines.
for service in redis kafka; do
  printed=$(scripts/services.sh start "$service")
  while read -r variable; do export "${variable?}"; done <<<"$printed"
done

step 'format'
cargo fmt --check

step 'lints'
cargo clippy --quiet --locked --all-targets -- -D warnings

if grep -q '^kafka = \[' Cargo.toml; then
  step 'a build without Kafka'
  # Clippy rather than `cargo check` with RUSTFLAGS, which would build every dependency again.
  cargo clippy --quiet --locked --no-default-features --all-targets -- -D warnings
fi

step 'documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps

step 'tests'
cargo test --locked

step 'HTTP API'
scripts/check-api.sh

step 'demos'
WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo.sh
WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo-redis.sh
# The demo uses the Kafka that was started above.
KAFKA_BROKERS=$WHK_TEST_KAFKA WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo-kafka.sh

# Advisories need a database from the network: run `cargo deny check advisories` if it can be reached.
step 'licences, bans, sources'
cargo deny --log-level error check licenses bans sources

if [[ -n $full ]]; then
  step "$FULL_ROUNDS kills of servers and Redis"
  scripts/torture.sh --rounds "$FULL_ROUNDS"

  step "kills of Kafka's consumers and brokers, $FULL_ROUNDS rounds"
  scripts/torture.sh --rounds "$FULL_ROUNDS" kafka

  step 'a backlog of a million jobs'
  scripts/bench.sh --backlog 1000000

  step 'load'
  scripts/bench.sh --quick
fi

step 'passed'
