//! Load runs with real processes on one machine, with a bare HTTP forwarder as the baseline.
//!
//! `scripts/bench.sh` runs them. Sender, server and customer share the machine. Absolute figures vary with it, so compare
//! the ratio of two rows of one run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its result")]
#![expect(clippy::arithmetic_side_effects, reason = "no input comes from outside")]

mod fan_out;
mod forwarder;
mod kafka;
mod process;
mod queues;
mod sink;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use process::{Process, own, whk};
use serde::Deserialize;

/// Size of a payload in bytes.
const PAYLOAD_BYTES: usize = 1024;

/// Concurrent connections of `whk send`.
const CONCURRENCY: &str = "32";

/// The summary that `whk send` prints.
#[derive(Deserialize)]
struct Sent {
    accepted: u64,
    refused: u64,
    accepted_per_second: f64,
    latency_ms: Latency,
}

/// Time until a publish was answered, in milliseconds.
#[derive(Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sink"] => serve(|listener| async { sink::run(listener).await }),
        ["forwarder", target] => {
            let target = target.parse()?;
            serve(|listener| async { forwarder::run(listener, target).await })
        }
        [] => {
            bench(20_000, 2_000)?;
            queues::compare(&Files::make()?, 20_000, 2_000)?;
            bench_fan_out(10_000)
        }
        ["--quick"] => {
            bench(2_000, 200)?;
            queues::compare(&Files::make()?, 2_000, 200)?;
            bench_fan_out(1_000)
        }
        ["--fan-out"] => bench_fan_out(10_000),
        ["--kafka"] => kafka::bench(&Files::make()?, 60_000),
        ["--queues"] => queues::compare(&Files::make()?, 20_000, 2_000),
        ["--backlog"] => queues::backlog(&Files::make()?, 1_000_000),
        ["--backlog", jobs] => queues::backlog(&Files::make()?, jobs.parse()?),
        _ => anyhow::bail!("usage: load [--quick | --fan-out | --queues | --kafka | --backlog [JOBS]]"),
    }
}

fn serve<F: Future<Output = anyhow::Result<()>>>(
    run: impl FnOnce(tokio::net::TcpListener) -> F,
) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("{{\"address\":\"{}\"}}", listener.local_addr()?);
        run(listener).await
    })
}

/// Keys, secret and payload of one run, in a temporary folder.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn make() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut keygen = whk();
        keygen.args(["keygen", "--signing-secret", "--out-dir"]).arg(folder.path());
        anyhow::ensure!(keygen.stdout(Stdio::null()).status()?.success(), "keygen");
        let frame = r#"{"seq":{{seq}},"sent":{{now}},"text":""}"#;
        let text = "x".repeat(PAYLOAD_BYTES - frame.len());
        let payload = frame.replace("\"\"}", &format!("\"{text}\"}}"));
        std::fs::write(folder.path().join("payload.json"), payload)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.folder.path(), name)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn server(&self) -> anyhow::Result<Process> {
        self.server_with(&["--queue", "memory"])
    }

    fn server_with(&self, flags: &[&str]) -> anyhow::Result<Process> {
        let data = tempfile::tempdir_in(self.folder.path())?.keep();
        self.server_in(&data, &[&["--max-queue-size", "100000"], flags].concat())
    }

    fn server_in(&self, data: &Path, flags: &[&str]) -> anyhow::Result<Process> {
        let mut command = whk();
        command.args(["--log-format", "json", "publish-server", "--port", "0"]);
        command.args(["--allow-net", "127.0.0.0/8"]).args(flags);
        command.arg("--data-dir").arg(data);
        command.arg("--public-key").arg(self.path("public_key.pem"));
        command.arg("--signing-secret-file").arg(self.path("signing_secret.txt"));
        Process::start(&mut command)
    }

    fn customer(&self) -> anyhow::Result<Customer> {
        let mut command = whk();
        command.args(["--log-format", "json", "customer", "--port", "0"]).stdout(Stdio::piped());
        command.arg("--private-key").arg(self.path("private_key.pem"));
        command.arg("--secret-file").arg(self.path("signing_secret.txt"));
        let mut process = Process::start(&mut command)?;
        let stdout = process.stdout()?;
        let (send, arrivals) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(send.send((line, SystemTime::now())));
            }
        });
        Ok(Customer { process, arrivals })
    }

    /// Runs `whk send` until it ends and returns its summary.
    fn send(&self, server: u16, urls: &[String], count: u64, rate: Option<u64>) -> anyhow::Result<Sent> {
        let mut command = whk();
        command.args([
            "send",
            "--output",
            "json",
            "--concurrency",
            CONCURRENCY,
            "--count",
            &count.to_string(),
        ]);
        command.args(["--server", &format!("http://127.0.0.1:{server}")]);
        command.arg("--payload-file").arg(self.path("payload.json"));
        for url in urls {
            command.args(["--webhook-url", url]);
        }
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// A `whk customer` process, with the lines it printed and the time of each.
struct Customer {
    process: Process,
    arrivals: mpsc::Receiver<(String, SystemTime)>,
}

impl Customer {
    fn urls(&self, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("http://127.0.0.1:{}/webhook?endpoint={n}", self.process.port)).collect()
    }

    /// Waits for `count` events and returns the microseconds from publish to arrival of each.
    fn wait_for(&self, count: u64) -> anyhow::Result<Histogram<u64>> {
        #[derive(Deserialize)]
        struct Line {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            sent: u64,
        }
        let mut latencies = Histogram::new(3)?;
        for _ in 0..count {
            let (line, at) =
                self.arrivals.recv_timeout(Duration::from_secs(60)).context("wait for events")?;
            let line: Line = serde_json::from_str(&line)?;
            let at = u64::try_from(at.duration_since(UNIX_EPOCH)?.as_micros())?;
            latencies.record(at.saturating_sub(line.data.sent).max(1))?;
        }
        Ok(latencies)
    }
}

/// Returns the number of requests that a sink has answered.
fn sink_count(port: u16) -> anyhow::Result<u64> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /count HTTP/1.1\r\nhost: sink\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n").next().context("count")?.parse()?)
}

/// Waits until a sink has answered `count` requests; fails after a minute.
fn wait_for_sink(port: u16, count: u64) -> anyhow::Result<()> {
    let give_up = Instant::now() + Duration::from_secs(60);
    while sink_count(port)? < count {
        anyhow::ensure!(Instant::now() < give_up, "the sink didn't get {count} requests within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A row of the table of rates.
struct Row {
    delivered_per_second: f64,
}

fn row(name: &str, sent: &Sent, count: u64, elapsed: Duration, server: &Process) -> anyhow::Result<Row> {
    anyhow::ensure!(
        sent.refused == 0 && sent.accepted == count,
        "{name}: {} events were refused",
        sent.refused
    );
    let delivered_per_second = count as f64 / elapsed.as_secs_f64();
    println!(
        "{name:<34} {:>10.0} {:>11.0} {:>14.3} {:>9.1}",
        sent.accepted_per_second,
        delivered_per_second,
        server.cpu_seconds()? * 1_000.0 / count as f64,
        server.peak_mib()?,
    );
    Ok(Row { delivered_per_second })
}

fn bench_fan_out(most: usize) -> anyhow::Result<()> {
    let files = Files::make()?;
    let payload = std::fs::read_to_string(files.path("payload.json"))?;
    let payload = payload.replace("{{seq}}", "1").replace("{{now}}", "1");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(fan_out::run(&files.path("public_key.pem"), &payload, most))
}

fn bench(count: u64, paced: u64) -> anyhow::Result<()> {
    let files = Files::make()?;
    println!(
        "{count} events of {PAYLOAD_BYTES} bytes, {CONCURRENCY} connections, all processes on this machine"
    );
    println!(
        "{:<34} {:>10} {:>11} {:>14} {:>9}",
        "", "accepted/s", "delivered/s", "cpu s / 1,000", "peak MiB"
    );

    let forwarder = {
        let sink = Process::start(&mut own("sink")?)?;
        let target = format!("http://127.0.0.1:{}/", sink.port);
        let server = Process::start(own("forwarder")?.arg(&target))?;
        let start = Instant::now();
        let sent = files.send(server.port, &[target], count, None)?;
        wait_for_sink(sink.port, count)?;
        row("baseline: forwarder to sink", &sent, count, start.elapsed(), &server)?
    };
    let to_sink = {
        let sink = Process::start(&mut own("sink")?)?;
        let server = files.server()?;
        let start = Instant::now();
        let sent = files.send(server.port, &[format!("http://127.0.0.1:{}/", sink.port)], count, None)?;
        wait_for_sink(sink.port, count)?;
        row("whk to sink, 1 endpoint", &sent, count, start.elapsed(), &server)?
    };
    let mut to_customer = Vec::new();
    for endpoints in [1, 10] {
        let (server, customer) = (files.server()?, files.customer()?);
        let start = Instant::now();
        let sent = files.send(server.port, &customer.urls(endpoints), count, None)?;
        customer.wait_for(count)?;
        let name = format!("whk to whk customer, {endpoints} endpoint(s)");
        to_customer.push(row(&name, &sent, count, start.elapsed(), &server)?);
    }
    println!("\ndelivered/s in relation to the forwarder:");
    for (name, row) in
        ["sink", "customer, 1", "customer, 10"].iter().zip([to_sink].iter().chain(&to_customer))
    {
        println!("  {name:<14} {:.2}", row.delivered_per_second / forwarder.delivered_per_second);
    }

    println!("\nfrom publish to delivery at 200 events/s, {paced} events, milliseconds");
    println!("{:<50} {:>8} {:>8} {:>8}", "", "p50", "p99", "max");
    for hanging in [false, true] {
        let (server, customer) = (files.server()?, files.customer()?);
        let sink = Process::start(&mut own("sink")?)?;
        let mut urls = customer.urls(9);
        let expected = paced / 10 * 9;
        urls.push(if hanging {
            format!("http://127.0.0.1:{}/hang", sink.port)
        } else {
            format!("http://127.0.0.1:{}/", sink.port)
        });
        files.send(server.port, &urls, paced, Some(200))?;
        let latencies = customer.wait_for(expected)?;
        let name = if hanging {
            "9 of 10 endpoints, the tenth doesn't answer"
        } else {
            "9 of 10 endpoints, all answer"
        };
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        println!("{name:<50} {:>8.2} {:>8.2} {:>8.2}", ms(0.5), ms(0.99), ms(1.0));
    }
    Ok(())
}
