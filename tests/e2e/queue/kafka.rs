//! `whk publish-server --queue kafka` and `whk consume-kafka`, with a real broker.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;

use crate::support::kafka::{Kafka, publish_for};
use crate::support::load::deduped;
use crate::support::services;
use crate::support::{Api, FAILS, OK, RawCustomer, Server, message_ids, run, stderr, wait_until, whk};

/// Returns the `n`th of a series of digits that no codec can compress.
fn noise(n: u64) -> u8 {
    // SplitMix64 (Steele, Lea and Flood, 2014).
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u8::try_from((z ^ (z >> 31)) % 10).unwrap()
}

#[test]
fn a_consumer_delivers_and_commits_all_of_its_offsets() {
    let kafka = Kafka::shared(3);
    let (server, customer) = (kafka.server(&[]), RawCustomer::answering(OK));
    let mut ids: Vec<String> =
        (0..30).map(|n| publish_for(&server, &customer.url(), &format!("tenant-{}", n % 7))).collect();
    assert_eq!(server.queued_jobs(), 30, "a server with this queue must not deliver");
    let mut consumer = kafka.consumer(&[]);
    let mut received: Vec<String> =
        ids.iter().map(|_| customer.request().headers["webhook-id"].clone()).collect();
    ids.sort();
    received.sort();
    assert_eq!(ids, received);
    consumer.wait_for_metric("whk_jobs_delivered_total", 30);
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
    let rows = kafka.describe_group();
    assert_eq!(rows.len(), 6, "events and events.retry: {rows:?}");
    for row in rows {
        assert_eq!((&row[2], row[4].as_str()), (&row[3], "0"), "{row:?}");
    }
    assert_eq!(server.queued_jobs(), 0);
}

/// An endpoint fails while its jobs move to the retry topic and consumers are killed. Then it gets its events in order.
#[test]
fn order_is_kept_when_jobs_go_through_the_retry_topic() {
    let kafka = Kafka::shared(1);
    let server = kafka.server(&["--ordered"]);
    let is_well = Arc::new(AtomicBool::new(false));
    let (well, taken) = (Arc::clone(&is_well), Arc::new(Mutex::new(Vec::new())));
    let customer = RawCustomer::start(move |stream, _| {
        let answer = if well.load(Ordering::Relaxed) { OK } else { FAILS };
        drop(stream.write_all(answer.as_bytes()));
    });
    let flags = ["--window", "40", "--retry-delays", "6000", "--max-retries", "1000", "--in-flight", "16"];
    let consumer = kafka.consumer(&flags);
    let mut expected: Vec<String> =
        (0..60).map(|_| publish_for(&server, &customer.url(), "tenant")).collect();
    let in_retry = |kafka: &Kafka| -> u64 {
        let rows = kafka.describe_group().into_iter();
        rows.filter(|row| row[0].ends_with(".retry")).map(|row| row[3].parse::<u64>().unwrap()).sum()
    };
    wait_until("20 records in events.retry", || in_retry(&kafka) >= 20);
    // Two of these consumers are killed, the first of them while it moves jobs to the retry topic.
    drop(consumer);
    for round in 0..3 {
        let mut consumer = kafka.consumer(&flags);
        expected.extend((0..10).map(|_| publish_for(&server, &customer.url(), "tenant")));
        consumer.wait_for_log("partitions came");
        consumer.signal(if round % 2 == 0 { "KILL" } else { "TERM" });
        consumer.wait();
    }
    is_well.store(true, Ordering::Relaxed);
    let _consumer = kafka.consumer(&["--window", "40", "--retry-delays", "50"]);
    wait_until("all events", || {
        while let Some(request) = customer.request_so_far() {
            taken.lock().unwrap().push(request.headers["webhook-id"].clone());
        }
        expected.iter().all(|id| taken.lock().unwrap().contains(id))
    });
    wait_until("an empty queue", || server.queued_jobs() == 0);
    let taken = taken.lock().unwrap();
    // All failed attempts were attempts at the first job.
    let failed = taken.iter().take_while(|id| **id == expected[0]).count();
    assert!(failed > 1, "the first job must have failed before");
    let received: Vec<&String> = deduped(&taken);
    assert!(received.iter().copied().eq(&expected), "out of order");
}

#[test]
fn a_damaged_record_is_dead_lettered_and_a_job_of_a_deleted_endpoint_is_dropped() {
    let kafka = Kafka::shared(2);
    let server = kafka.server(&[]);
    let customer = RawCustomer::answering(OK);
    let api = server.api();
    let tenant = api.subscribe("Acme", &customer.url(), &["*"]);
    assert_eq!(api.published("gone.later", json!(1)).len(), 1);
    assert_eq!(tenant.api.delete(&tenant.endpoint_path()).status, 204);
    let stranger = json!({
        "v": 1, "id": "msg_00000000000000000000000000000001", "tenant": "ten_00000000000000000000000000000001",
        "endpoint": "ep_00000000000000000000000000000001", "ordered": false, "content_type": "application/json",
        "published_at": 1_700_000_000_000_000_i64, "trace": "4bf92f3577b34da6a3ce929d0e0e4736-01"
    });
    let newer = json!({"v": 9, "id": "msg_00000000000000000000000000000002"});
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap();
    let header = |job: String| OwnedHeaders::new().insert(Header { key: "whk-job", value: Some(&job) });
    let send = |record: BaseRecord<'_, str, str>| producer.send(record).map_err(|(error, _)| error).unwrap();
    send(BaseRecord::to(&kafka.topic).key("a").payload("garbage"));
    send(BaseRecord::to(&kafka.topic).key("b").payload("{}").headers(header("{\"v\":1".to_owned())));
    send(BaseRecord::to(&kafka.topic).key("c").payload("{}").headers(header(newer.to_string())));
    send(BaseRecord::to(&kafka.topic).key("d").payload("{}").headers(header(stranger.to_string())));
    send(BaseRecord::to(&kafka.topic).key("e"));
    send(BaseRecord::to(&kafka.topic).key("f").headers(header(stranger.to_string())));
    // This record is larger than the topic of dead letters accepts.
    kafka.configure(&format!("{}.dlq", kafka.topic), "max.message.bytes", "100000");
    let noise: String = (0..900_000).map(|n| char::from(b'0' + noise(n))).collect();
    send(BaseRecord::to(&kafka.topic).key("g").payload(&noise));
    producer.flush(Duration::from_secs(20)).unwrap();

    let mut consumer = kafka.consumer(&[]);
    consumer.wait_for_metric("whk_jobs_dropped_total", 2);
    wait_until("an empty queue", || server.queued_jobs() == 0);
    let dead = api.get("/dead-letters?cause=damaged").json();
    assert_eq!(dead["data"].as_array().unwrap().len(), 6, "{dead}");
    let id = dead["data"][0]["id"].as_str().unwrap();
    let shown = api.get(&format!("/dead-letters/{id}")).json();
    assert_eq!((shown["body"].is_null(), shown["attempt_count"].as_u64()), (true, Some(0)), "{shown}");
    let replayed = api.post("/dead-letters/replay", json!({"all": true})).json();
    assert_eq!(replayed["replayed"], 0, "a record that can't be parsed can't be replayed: {replayed}");
    // The next consumer must not read those records again.
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0));
    let again = kafka.consumer(&[]);
    publish_for(&server, &customer.url(), "tenant");
    customer.request();
    assert_eq!(api.get("/dead-letters").json()["data"].as_array().unwrap().len(), 6);
    assert_eq!(again.metric("whk_jobs_dropped_total"), 0);
    assert!(!consumer.log().contains("garbage"), "no payload is logged");
}

#[test]
fn dead_letters_in_kafka_are_listed_and_replayed() {
    let kafka = Kafka::shared(2);
    let server = kafka.server(&[]);
    let api = server.api();
    let answers_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&answers_well);
    let customer = RawCustomer::start(move |stream, _| {
        let answer = if well.load(Ordering::Relaxed) { OK } else { FAILS };
        drop(stream.write_all(answer.as_bytes()));
    });
    let tenant = api.subscribe("Acme", &customer.url(), &["*"]);
    let other = api.subscribe("Other", &customer.url(), &["*"]);
    let consumer = kafka.consumer(&["--max-retries", "1"]);
    let ids = api.published("invoice.paid", json!({"amount": 1}));
    assert_eq!(ids.len(), 2);
    wait_until("two dead letters", || server.metric("whk_queue_jobs{state=\"dead\"}") == 2);
    let own = |api: &Api| api.get("/tenants/me/dead-letters").json()["data"].as_array().unwrap().clone();
    let (mine, theirs) = (own(&tenant.api), own(&other.api));
    assert_eq!((mine.len(), theirs.len()), (1, 1));
    assert_eq!((&mine[0]["cause"], &mine[0]["attempt_count"]), (&json!("exhausted"), &json!(2)));
    let id = mine[0]["id"].as_str().unwrap();
    assert_eq!(other.api.get(&format!("/tenants/me/dead-letters/{id}")).status, 404);
    let shown = tenant.api.get(&format!("/tenants/me/dead-letters/{id}")).json();
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 2, "{shown}");
    assert!(shown["body"]["ciphertext"].is_string(), "{shown}");
    // `whk dlq` reads the same dead letters.
    let url = server.url("");
    let data_dir = server.data_dir().to_str().unwrap();
    let dlq = |arguments: &[&str]| {
        let output =
            run(&[&["dlq", "--server", url.trim_end_matches('/'), "--data-dir", data_dir], arguments]
                .concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(dlq(&["list", "--tenant", "Acme"]).contains(id));
    assert!(dlq(&["show", id]).contains("exhausted"));
    answers_well.store(true, Ordering::Relaxed);
    dlq(&["replay", "--tenant", "Acme"]);
    consumer.wait_for_metric("whk_jobs_delivered_total", 1);
    assert!(own(&tenant.api).is_empty());
    dlq(&["purge", "--all", "--yes"]);
    assert!(own(&other.api).is_empty());
    assert_eq!(server.metric("whk_queue_jobs{state=\"dead\"}"), 0);
}

#[test]
fn a_far_retry_waits_in_the_retry_topic() {
    let kafka = Kafka::shared(1);
    let (server, customer) = (kafka.server(&[]), RawCustomer::answering(FAILS));
    let id = publish_for(&server, &customer.url(), "tenant");
    let mut consumer = kafka.consumer(&["--retry-delays", "120000", "--retry-jitter", "0"]);
    assert_eq!(customer.request().headers["webhook-id"], id);
    let waiting = |kafka: &Kafka| -> Vec<String> {
        kafka.describe_group().into_iter().map(|row| row[4].clone()).collect()
    };
    consumer.wait_for_metric("whk_queue_jobs{state=\"delayed\"}", 1);
    consumer.signal("TERM");
    assert_eq!(consumer.wait().code(), Some(0), "{}", consumer.log());
    let mut lags = waiting(&kafka);
    lags.sort();
    assert_eq!(lags, ["0", "1"], "one offset is left, in events.retry alone");
    // The partition's next consumer knows when the job is due.
    let next = kafka.consumer(&[]);
    next.wait_for_metric("whk_queue_jobs{state=\"delayed\"}", 1);
    assert!(customer.got_nothing());
}

#[test]
fn reading_one_partition_at_a_time_serves_all_partitions() {
    let kafka = Kafka::shared(4);
    let (server, customer) = (kafka.server(&[]), RawCustomer::answering(OK));
    let ids: Vec<String> =
        (0..40).map(|n| publish_for(&server, &customer.url(), &format!("tenant-{n}"))).collect();
    let consumer = kafka.consumer(&["--partitions-concurrency", "1"]);
    for _ in &ids {
        customer.request();
    }
    consumer.wait_for_metric("whk_jobs_delivered_total", 40);
}

#[test]
fn a_consumer_with_an_instance_id_gets_its_partitions_back() {
    let kafka = Kafka::shared(4);
    let (server, customer) = (kafka.server(&[]), RawCustomer::answering(OK));
    let named = |name| kafka.consumer(&["--instance-id", name, "--session-timeout", "20s"]);
    let (one, mut other) = (named("one"), named("other"));
    let has_two = |server: &Server| {
        let log = server.log();
        let now = log.rsplit_once("\"now\":\"").map_or("", |(_, now)| now);
        now.split_once(']').is_some_and(|(partitions, _)| partitions.split(", ").count() == 2)
    };
    wait_until("two partitions for each consumer", || has_two(&one) && has_two(&other));
    let before = one.log().matches("partitions came").count() + one.log().matches("partitions went").count();
    other.signal("TERM");
    assert_eq!(other.wait().code(), Some(0));
    let other = named("other");
    wait_until("the partitions of the restarted consumer", || other.log().contains("partitions came"));
    let ids: Vec<String> =
        (0..20).map(|n| publish_for(&server, &customer.url(), &format!("tenant-{n}"))).collect();
    for _ in &ids {
        customer.request();
    }
    let after = one.log().matches("partitions came").count() + one.log().matches("partitions went").count();
    assert_eq!(before, after, "the other consumer must not be rebalanced: {}", one.log());
}

#[test]
fn an_unreachable_broker_is_reported_at_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let brokers = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().unwrap();
    let own =
        ["--kafka-brokers", &brokers, "--kafka-timeout", "1s", "--data-dir", folder.path().to_str().unwrap()];
    let server = ["publish-server", "--port", "0", "--queue", "kafka"];
    let output = run(&[&server[..], &own].concat());
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(stderr(&output).contains("--kafka-brokers"), "{}", stderr(&output));
    // Consumers can't read a registry in SQLite.
    let output = run(&[&server[..], &own, &["--registry", "sqlite"]].concat());
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(stderr(&output).contains("--registry sqlite"), "{}", stderr(&output));
}

#[test]
fn tls_certificates_and_passwords_are_checked() {
    let (brokers, ca) = (services::kafka("WHK_TEST_KAFKA_TLS"), services::kafka("WHK_TEST_KAFKA_CA"));
    let setup = |mechanism: &str, password: &str, more: &[&str]| {
        let topic = format!("tls-{}-{mechanism}", std::process::id());
        let registry = format!("{topic}.tenants");
        let mut command = whk(&["kafka-setup", "--partitions", "1", "--kafka-brokers", &brokers]);
        command.args([
            "--kafka-topic",
            &topic,
            "--kafka-registry-topic",
            &registry,
            "--kafka-timeout",
            "10s",
        ]);
        command.args(["--kafka-tls", "--kafka-sasl", mechanism, "--kafka-username", "whk"]).args(more);
        command.env("KAFKA_PASSWORD", password).output().unwrap()
    };
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let output = setup(mechanism, "whk-secret", &["--kafka-ca-file", &ca]);
        assert_eq!(output.status.code(), Some(0), "{mechanism}: {}", stderr(&output));
    }
    for (password, more, expected) in [
        ("wrong-one", vec!["--kafka-ca-file", &ca, "--kafka-timeout", "2s"], "uthentication"),
        ("whk-secret", vec!["--kafka-timeout", "2s"], "ertificate"),
    ] {
        let more: Vec<&str> = more.into_iter().map(|flag| -> &str { flag }).collect();
        let topic = "tls-refused";
        let mut command = whk(&["kafka-setup", "--kafka-brokers", &brokers, "--kafka-topic", topic]);
        command.args(["--kafka-tls", "--kafka-sasl", "scram-sha-256", "--kafka-username", "whk"]).args(more);
        let output = command.env("KAFKA_PASSWORD", password).output().unwrap();
        let said = stderr(&output);
        assert!(matches!(output.status.code(), Some(69 | 77)), "{said}");
        assert!(said.contains(expected) && !said.contains("wrong-one"), "{said}");
    }
}

#[test]
fn events_are_published_and_delivered_over_tls() {
    let (brokers, ca) = (services::kafka("WHK_TEST_KAFKA_TLS"), services::kafka("WHK_TEST_KAFKA_CA"));
    let mut password = tempfile::NamedTempFile::new().unwrap();
    writeln!(password, "whk-secret").unwrap();
    let password = password.path().to_str().unwrap();
    let flags = ["--kafka-tls", "--kafka-ca-file", &ca, "--kafka-sasl", "scram-sha-512"];
    let flags = [&flags[..], &["--kafka-username", "whk", "--kafka-password-file", password]].concat();
    let kafka = Kafka::at(&brokers, 2, &flags);
    let server = kafka.server(&["--kafka-compression", "zstd"]);
    let customer = RawCustomer::answering(OK);
    server.api().subscribe("Acme", &customer.url(), &["*"]);
    let ids = server.api().published("invoice.paid", json!(1));
    let _consumer = kafka.consumer(&[]);
    assert_eq!(customer.request().headers["webhook-id"], ids[0]);
    wait_until("an empty queue", || server.queued_jobs() == 0);
}

#[test]
fn the_environment_variables_of_the_scripts_are_read() {
    for (name, value, expected) in [
        ("PARTITIONS_CONCURRENCY", "0", "--partitions-concurrency"),
        ("SESSION_TIMEOUT", "50", "--session-timeout"),
        ("MAX_RETRIES", "many", "--max-retries"),
        ("RETRY_DELAYS", "soon", "--retry-delays"),
        ("KAFKA_BROKERS", "nowhere", "--kafka-brokers"),
    ] {
        let output = whk(&["consume-kafka"]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}: {output:?}");
        assert!(stderr(&output).contains(expected), "{name}: {}", stderr(&output));
    }
}

#[test]
fn the_servers_ordered_flag_holds_at_the_consumer() {
    let kafka = Kafka::shared(1);
    let server = kafka.server(&["--ordered"]);
    let first_fails = RawCustomer::start(|stream, number| {
        let answer = if number == 0 { FAILS } else { OK };
        drop(stream.write_all(answer.as_bytes()));
    });
    server.api().subscribe("Acme", &first_fails.url(), &["*"]);
    let ids: Vec<String> =
        (0..5).flat_map(|n| message_ids(&server.api().publish("invoice.paid", json!(n)))).collect();
    let _consumer = kafka.consumer(&[]);
    let received: Vec<String> = (0..6).map(|_| first_fails.request().headers["webhook-id"].clone()).collect();
    assert_eq!(received[1..], ids, "the first must be retried before the others");
}
