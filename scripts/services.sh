#!/usr/bin/env bash
# Starts and stops the Redis and the Kafka that tests use, each on a free port. Data is in target/services/NAME, and the
# log, which is kept after a stop, in target/services/NAME.log. Missing programs are installed with apt-get if the user
# is root.
#   usage: scripts/services.sh start redis|kafka [NAME]
#              prints VARIABLE=value lines once the service answers: WHK_TEST_REDIS; WHK_TEST_KAFKA,
#              WHK_KAFKA_CLASSPATH, WHK_KAFKA_TOOLS, WHK_TEST_KAFKA_TLS, WHK_TEST_KAFKA_CA
#          scripts/services.sh stop redis|kafka [NAME]
#   NAME tells services of one kind apart (default: redis or kafka). A start stops the service of the same name.
#   Where KAFKA_BROKERS is set, its variables are printed for that Kafka, and none is started.
#   example: eval "$(scripts/services.sh start redis | sed 's/^/export /')"
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" >&2; exit 64; }

# need PROGRAM PACKAGE: installs the package if the program is missing.
need() {
  command -v "$1" >/dev/null && return
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || { echo "$1 is missing; install $2" >&2; exit 1; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2"; } >/dev/null
}

# free_port: prints a free port outside the range that the system picks ports from.
free_port() {
  python3 - <<'PY'
import random, socket
while True:
    port = random.randrange(21000, 32000)
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
PY
}

# stop_pid FILE: stops the process whose id is in a file, and waits until it has ended.
stop_pid() {
  [[ -f $1 ]] || return 0
  local pid
  pid=$(<"$1")
  rm -f "$1"
  # After a restart of the machine another process may have the same id.
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qE 'redis-server|kafka' || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in {1..300}; do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

redis_start() {
  need redis-server redis-server
  need redis-cli redis-tools
  need python3 python3
  redis_stop
  mkdir -p "$dir"
  local port
  # Port 6379 may be in use: Debian's package starts a server there.
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --pidfile "$dir/pid" --logfile "$log" \
    --daemonize yes --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction >/dev/null
  for _ in {1..100}; do
    if [[ $(redis-cli -p "$port" ping 2>/dev/null) == PONG ]]; then
      echo "WHK_TEST_REDIS=redis://127.0.0.1:$port"
      return
    fi
    sleep 0.1
  done
  echo "redis-server doesn't answer; see $log" >&2
  stop_pid "$dir/pid"
  exit 1
}

redis_stop() {
  stop_pid "$dir/pid"
  rm -rf "$dir"
}

# The newest version that runs on Java 17.
KAFKA_VERSION=4.4.0
# The newest published version of the tools. They work with newer brokers.
KAFKA_TOOLS_VERSION=4.3.0
LOG4J_VERSION=2.25.5

# resolve ARTEFACT VERSION FILE: fetches one of Kafka's artefacts with Maven and writes its class path to a file.
resolve() {
  local first folder
  first=$(cut -d : -f 1 "$3" 2>/dev/null || true)
  [[ -n $first && -f $first ]] && return
  need mvn maven
  folder=$(dirname "$3")
  mkdir -p "$folder"
  cat >"$folder/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>whk</groupId><artifactId>test-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>$1</artifactId><version>$2</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$folder/pom.xml" "-Dmaven.repo.local=$PWD/target/maven" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath \
    -DincludeScope=runtime -Dmdep.outputFile="$3.new" >&2
  mv "$3.new" "$3"
}

# kafka_certificates: creates a CA, and a certificate and key for the broker, as PEM files.
kafka_certificates() {
  need openssl openssl
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=whk-test-ca -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$dir/broker.key" -out "$dir/broker.csr" 2>/dev/null
  openssl x509 -req -in "$dir/broker.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 30 \
    -extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') -out "$dir/broker.crt" 2>/dev/null
  cat "$dir/broker.key" "$dir/broker.crt" >"$dir/broker.pem"
}

kafka_start() {
  need java default-jre-headless
  need python3 python3
  local classpath=$PWD/target/kafka-$KAFKA_VERSION/classpath port controller tls
  local tools=$PWD/target/kafka-tools-$KAFKA_TOOLS_VERSION/classpath
  resolve kafka_2.13 "$KAFKA_VERSION" "$classpath"
  resolve kafka-tools "$KAFKA_TOOLS_VERSION" "$tools"
  echo "WHK_KAFKA_CLASSPATH=$classpath"
  echo "WHK_KAFKA_TOOLS=$tools"
  if [[ -n ${KAFKA_BROKERS:-} ]]; then
    echo "WHK_TEST_KAFKA=$KAFKA_BROKERS"
    return
  fi
  kafka_stop
  mkdir -p "$dir"
  kafka_certificates
  port=$(free_port) controller=$(free_port) tls=$(free_port)
  cat >"$dir/log4j2.properties" <<'CONF'
rootLogger.level=warn
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=[%d] %p %m (%c)%n
CONF
  cat >"$dir/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$tls,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$tls
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$dir/broker.pem
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_whk="whk-secret";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
CONF
  # Tests make many small topics, and an index takes 10 MiB each if it is allocated in full.
  echo 'log.index.size.max.bytes=65536' >>"$dir/server.properties"
  local java=(java -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
    "-Dlog4j2.configurationFile=file:$dir/log4j2.properties" -cp "$(<"$classpath")")
  "${java[@]}" kafka.tools.StorageTool format --config "$dir/server.properties" \
    --cluster-id "$("${java[@]}" kafka.tools.StorageTool random-uuid)" \
    --add-scram 'SCRAM-SHA-256=[name=whk,password=whk-secret]' \
    --add-scram 'SCRAM-SHA-512=[name=whk,password=whk-secret]' >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
  setsid "${java[@]}" kafka.Kafka "$dir/server.properties" >>"$log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  for _ in {1..300}; do
    if kafka_answers "$port"; then
      echo "WHK_TEST_KAFKA=127.0.0.1:$port"
      echo "WHK_TEST_KAFKA_TLS=127.0.0.1:$tls"
      echo "WHK_TEST_KAFKA_CA=$dir/ca.pem"
      return
    fi
    kill -0 "$(<"$dir/pid")" 2>/dev/null || break
    sleep 0.2
  done
  echo "Kafka doesn't answer; the end of $log:" >&2
  tail -n 20 "$log" >&2
  stop_pid "$dir/pid"
  exit 1
}

# kafka_answers PORT: succeeds if a broker answers an ApiVersions request, as it does once it has started.
kafka_answers() {
  timeout 2 python3 - "$1" 2>/dev/null <<'PY'
import socket, struct, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1) as s:
    s.sendall(struct.pack(">ihhih", 10, 18, 0, 7, 0))
    sys.exit(0 if s.recv(10)[4:] == struct.pack(">ih", 7, 0) else 1)
PY
}

kafka_stop() {
  stop_pid "$dir/pid"
  rm -rf "$dir"
}

[[ ($# == 2 || $# == 3) && ($2 == redis || $2 == kafka) ]] || usage
dir=$PWD/target/services/${3:-$2}
log=$dir.log
case $1 in
  start | stop) "$2_$1" ;;
  *) usage ;;
esac
