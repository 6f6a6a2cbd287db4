#!/usr/bin/env bash
# Everything a change must pass: format, lints, docs, tests against real libraries, the HTTP API against its own
# description, the demo, licences.
# Installs what it needs: under target/ as a user, with apt-get where it is root and a program is missing.
#   usage: scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

DENY_VERSION=0.20.2

step() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }

# install PACKAGE
install() {
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || { echo "install $1" >&2; exit 1; }
  [[ -n ${APT_UPDATED:-} ]] || { apt-get update -qq; APT_UPDATED=yes; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >/dev/null
}

# need PROGRAM PACKAGE: the program, installed where it is missing.
need() { command -v "$1" >/dev/null || install "$2"; }

step 'programs'
need cc gcc
need c++ g++
need make make
# Building OpenSSL takes more of Perl than the smallest installation of it has.
perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1 2>/dev/null || install perl
need node nodejs
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ||
  { echo "Node.js 20 or newer is needed for the example receivers, $(node --version) is here" >&2; exit 1; }
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
  ((code == 0)) || echo "failed; what the services said is in target/services/*.log" >&2
}
trap stop EXIT
# Under their own names, as services.sh prints them.
for service in redis kafka; do
  printed=$(scripts/services.sh start "$service")
  while read -r variable; do export "${variable?}"; done <<<"$printed"
done

step 'format'
cargo fmt --check

step 'lints'
cargo clippy --quiet --locked --all-targets -- -D warnings

step 'docs'
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps

step 'tests'
cargo test --locked

step 'HTTP API'
scripts/check-api.sh

step 'demos'
WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo.sh
WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo-redis.sh
# In the Kafka that is there.
KAFKA_BROKERS=$WHK_TEST_KAFKA WHK=${CARGO_TARGET_DIR:-target}/debug/whk scripts/demo-kafka.sh

# Advisories too where their database can be had: `cargo deny check advisories`.
step 'licences, bans, sources'
cargo deny --log-level error check licenses bans sources

step 'passed'
