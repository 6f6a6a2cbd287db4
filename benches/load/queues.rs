//! The queues in comparison, and the queue on disk with a backlog.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::process::{Process, own};
use crate::{Files, sink_count, wait_for_sink};

/// A Redis server of the bench's own.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Starts one that syncs its log to disk once a second; `None` where `redis-server` isn't installed.
    fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--save",
            "",
        ]);
        command.arg("--dir").arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else { return Ok(None) };
        let redis = Self { child, port };
        let give_up = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            anyhow::ensure!(Instant::now() < give_up, "redis-server didn't start within 10 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(redis))
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Prints the rates of each queue, and the latency of a publish at 200 events a second.
pub(crate) fn compare(files: &Files, count: u64, paced: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path())?;
    let mut queues = vec![("memory", vec!["--queue", "memory"]), ("disk", vec!["--queue", "disk"])];
    let url = redis.as_ref().map(Redis::url);
    match &url {
        Some(url) => queues.push(("redis", vec!["--queue", "redis", "--redis-url", url])),
        None => println!("\nRedis isn't measured: redis-server isn't installed"),
    }
    println!(
        "\nqueues: {count} events to 10 endpoints that answer at once; ratio to memory; publish latency at 200 events/s in milliseconds"
    );
    println!(
        "{:<8} {:>10} {:>11} {:>14} {:>9} {:>8} {:>10} {:>10} {:>9} {:>9}",
        "",
        "accepted/s",
        "delivered/s",
        "cpu s / 1,000",
        "peak MiB",
        "",
        "accepted",
        "delivered",
        "202 p50",
        "202 p99"
    );
    let mut memory: Option<(f64, f64)> = None;
    for (name, flags) in &queues {
        let sink = Process::start(&mut own("sink")?)?;
        let urls: Vec<String> = (0..10).map(|n| format!("http://127.0.0.1:{}/{n}", sink.port)).collect();
        let server = files.server_with(flags)?;
        let start = Instant::now();
        let sent = files.send(server.port, &urls, count, None)?;
        wait_for_sink(sink.port, count)?;
        anyhow::ensure!(sent.refused == 0, "{name}: {} events were refused", sent.refused);
        let delivered = count as f64 / start.elapsed().as_secs_f64();
        let cpu = server.cpu_seconds()? * 1_000.0 / count as f64;
        let (of_accepted, of_delivered) = *memory.get_or_insert((sent.accepted_per_second, delivered));
        let at_pace = files.send(server.port, &urls, paced, Some(200))?;
        println!(
            "{name:<8} {:>10.0} {delivered:>11.0} {cpu:>14.3} {:>9.1} {:>8} {:>10.2} {:>10.2} {:>9.2} {:>9.2}",
            sent.accepted_per_second,
            server.peak_mib()?,
            "ratio",
            sent.accepted_per_second / of_accepted,
            delivered / of_delivered,
            at_pace.latency_ms.p50,
            at_pace.latency_ms.p99,
        );
    }
    Ok(())
}

/// Prints the rates and memory of a server with many jobs for an endpoint that is down, for a healthy endpoint beside it.
pub(crate) fn backlog(files: &Files, jobs: u64) -> anyhow::Result<()> {
    let data = tempfile::tempdir_in(files.folder())?;
    // Nothing listens on this port.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start_server = || files.server_in(data.path(), &["--queue", "disk", "--max-queue-size", "100000000"]);
    let sink = Process::start(&mut own("sink")?)?;
    let healthy = [format!("http://127.0.0.1:{}/", sink.port)];
    println!("\n{jobs} jobs for an endpoint that is down, on disk");
    let rate = |server: &Process| -> anyhow::Result<(f64, f64, f64)> {
        let (events, before, start) = (10_000, sink_count(sink.port)?, Instant::now());
        let sent = files.send(server.port, &healthy, events, None)?;
        wait_for_sink(sink.port, before + events)?;
        let rate = events as f64 / start.elapsed().as_secs_f64();
        let at_pace = files.send(server.port, &healthy, 1_000, Some(200))?;
        Ok((rate, sent.accepted_per_second, at_pace.latency_ms.p99))
    };
    let show = |when: &str, server: &Process| -> anyhow::Result<()> {
        let (delivered, accepted, p99) = rate(server)?;
        println!(
            "{when:<38} {accepted:>7.0} accepted/s {delivered:>7.0} delivered/s  202 p99 {p99:>6.2} ms  {:>6.1} MiB resident, peak {:>6.1}",
            server.resident_mib()?,
            server.peak_mib()?
        );
        Ok(())
    };
    let server = start_server()?;
    show("healthy endpoint, no backlog", &server)?;
    let start = Instant::now();
    let sent = files.send(server.port, &[format!("http://127.0.0.1:{dead}/")], jobs, None)?;
    anyhow::ensure!(sent.refused == 0, "{} events were refused", sent.refused);
    println!("queued in {:.1} s, {:.0}/s", start.elapsed().as_secs_f64(), sent.accepted_per_second);
    show("healthy endpoint, beside the backlog", &server)?;
    drop(server);
    let start = Instant::now();
    let server = start_server()?;
    let size = std::fs::metadata(data.path().join("queue.db")).context("queue.db")?.len();
    println!(
        "killed and restarted: ready after {:.0} ms with {:.1} MiB resident; queue.db has {} MiB",
        start.elapsed().as_secs_f64() * 1_000.0,
        server.resident_mib()?,
        size >> 20
    );
    show("healthy endpoint, after the restart", &server)
}
