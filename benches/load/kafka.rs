//! Kafka: publishing, and delivering with one and three consumers.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::process::{Process, own, whk};
use crate::{CONCURRENCY, Files, sink_count, wait_for_sink};

/// Number of tenants: enough that each partition has some.
const TENANTS: u64 = 12;

/// Prints the rates with the broker in WHK_TEST_KAFKA, and the time until other consumers replace a killed one.
pub(crate) fn bench(files: &Files, count: u64) -> anyhow::Result<()> {
    let brokers = std::env::var("WHK_TEST_KAFKA")
        .context("WHK_TEST_KAFKA isn't set; `scripts/bench.sh --kafka` starts a broker and sets it")?;
    let topic = format!("bench-{}", std::process::id());
    let registry = format!("{topic}.tenants");
    let kafka = ["--kafka-brokers", &brokers, "--kafka-topic", &topic, "--kafka-registry-topic", &registry];
    let setup = whk().arg("kafka-setup").args(kafka).stdout(Stdio::null()).status()?;
    anyhow::ensure!(setup.success(), "kafka-setup");
    let key = files.path("secret.key");
    std::fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")?;
    let key = key.to_str().context("a path")?;
    let shared = [&kafka[..], &["--secret-key-file", key, "--kafka-group", &topic]].concat();
    let server = files.server_with(&[&["--queue", "kafka"], &shared[..]].concat())?;
    let sink = Process::start(&mut own("sink")?)?;
    let consumer = || {
        let mut command = whk();
        command.args(["--log-format", "json", "consume-kafka", "--port", "0", "--allow-net", "127.0.0.0/8"]);
        command.args(kafka).args(["--secret-key-file", key, "--group", &topic, "--session-timeout", "6s"]);
        Process::start(&mut command)
    };
    println!("\nKafka: {count} events of 1 KiB, 6 partitions, {TENANTS} tenants");
    for consumers in [1, 3] {
        let before = sink_count(sink.port)?;
        let cpu = server.cpu_seconds()?;
        let start = Instant::now();
        publish(files, server.port, sink.port, count)?;
        let accepted = count as f64 / start.elapsed().as_secs_f64();
        let of_server = (server.cpu_seconds()? - cpu) * 1_000.0 / count as f64;
        let running: Vec<Process> = (0..consumers).map(|_| consumer()).collect::<anyhow::Result<_>>()?;
        while sink_count(sink.port)? == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        wait_for_sink(sink.port, before + count)?;
        let delivered = count as f64 / start.elapsed().as_secs_f64();
        let of_consumers = running.iter().map(Process::cpu_seconds).sum::<anyhow::Result<f64>>()?;
        let peak = running.iter().map(Process::peak_mib).collect::<anyhow::Result<Vec<f64>>>()?;
        println!(
            "{consumers} consumer(s): {accepted:>7.0} accepted/s at {of_server:.3} cpu s/1,000, then {delivered:>7.0} delivered/s from the backlog at {:.3}; peak MiB: consumer {:.0}, server {:.0}",
            of_consumers * 1_000.0 / count as f64,
            peak.into_iter().fold(0.0, f64::max),
            server.peak_mib()?,
        );
        drop(running);
        // Kafka removes killed consumers after their session timeout of 6 s.
        std::thread::sleep(Duration::from_secs(8));
    }
    let (killed, _one, _other) = (consumer()?, consumer()?, consumer()?);
    std::thread::sleep(Duration::from_secs(8));
    let before = sink_count(sink.port)?;
    drop(killed);
    let start = Instant::now();
    publish(files, server.port, sink.port, 1_000)?;
    wait_for_sink(sink.port, before + 1_000)?;
    println!(
        "one of three consumers killed: 1,000 events published after that were delivered after {:.1} s, with --session-timeout 6s",
        start.elapsed().as_secs_f64()
    );
    beside_a_hanging_endpoint(files, &brokers)
}

/// Prints the latency of events in a partition where another tenant's endpoint hangs and has more jobs than a window holds.
fn beside_a_hanging_endpoint(files: &Files, brokers: &str) -> anyhow::Result<()> {
    let topic = format!("bench-one-{}", std::process::id());
    let registry = format!("{topic}.tenants");
    let kafka = ["--kafka-brokers", brokers, "--kafka-topic", &topic, "--kafka-registry-topic", &registry];
    let setup =
        whk().args(["kafka-setup", "--partitions", "1"]).args(kafka).stdout(Stdio::null()).status()?;
    anyhow::ensure!(setup.success(), "kafka-setup");
    let (key, secret) = (files.path("secret.key"), files.path("signing_secret.txt"));
    let key = key.to_str().context("a path")?;
    let shared = [&kafka[..], &["--secret-key-file", key]].concat();
    let server =
        files.server_with(&[&["--queue", "kafka", "--kafka-group", &topic], &shared[..]].concat())?;
    let sink = Process::start(&mut own("sink")?)?;
    let customer = files.customer()?;
    let mut consumer = whk();
    consumer.args(["--log-format", "json", "consume-kafka", "--port", "0", "--allow-net", "127.0.0.0/8"]);
    consumer.args(shared).args(["--group", &topic]).arg("--signing-secret-file").arg(secret);
    let _consumer = Process::start(&mut consumer)?;
    println!("\none partition, from publish to delivery at 200 events/s, 2,000 events, milliseconds");
    println!("{:<50} {:>8} {:>8} {:>8}", "", "p50", "p99", "max");
    for name in ["all endpoints answer", "another tenant's endpoint hangs, with 20,000 jobs"] {
        if name != "all endpoints answer" {
            send(files, server.port, "hangs", &format!("http://127.0.0.1:{}/hang", sink.port), 20_000)?
                .wait()?;
            // Most of them move to the retry topic meanwhile.
            std::thread::sleep(Duration::from_secs(10));
        }
        files.send(server.port, &customer.urls(9), 2_000, Some(200))?;
        let latencies = customer.wait_for(2_000)?;
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        println!("{name:<50} {:>8.2} {:>8.2} {:>8.2}", ms(0.5), ms(0.99), ms(1.0));
    }
    Ok(())
}

/// Publishes `count` events, with one sender for each tenant.
fn publish(files: &Files, server: u16, sink: u16, count: u64) -> anyhow::Result<()> {
    let sender = |tenant: u64| {
        let share = count / TENANTS + u64::from(tenant < count % TENANTS);
        let url = format!("http://127.0.0.1:{sink}/{tenant}");
        send(files, server, &format!("tenant-{tenant}"), &url, share)
    };
    let senders = (0..TENANTS).map(sender).collect::<anyhow::Result<Vec<_>>>()?;
    for mut sender in senders {
        anyhow::ensure!(sender.wait()?.success(), "send");
    }
    Ok(())
}

/// Starts a sender of one tenant's events.
fn send(files: &Files, server: u16, target: &str, url: &str, count: u64) -> anyhow::Result<Child> {
    let mut command = whk();
    command.args(["send", "--output", "json", "--concurrency", CONCURRENCY, "--count", &count.to_string()]);
    command.args([
        "--server",
        &format!("http://127.0.0.1:{server}"),
        "--webhook-url",
        url,
        "--target",
        target,
    ]);
    command.arg("--payload-file").arg(files.path("payload.json"));
    Ok(command.stdout(Stdio::null()).spawn()?)
}
