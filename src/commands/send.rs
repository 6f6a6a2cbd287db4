//! Step 4, `whk send`: publishes events, many or at a rate, and says how it went.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use http::Uri;
use indicatif::{ProgressBar, ProgressStyle};

use super::flags::api_key::ApiKeyArgs;
use super::flags::value::{count, rate};
use crate::client;
use crate::commands::output::{self, OutputFormat};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::exit::UsageError;
use crate::send::{Load, Recipients, Summary, Template};

/// The payload of the scripts' 4_publish.sh.
const PAYLOAD: &str = r#"{"hello":"world","id":"{{seq}}"}"#;

/// Events of the scripts' 4_kafka_publish.sh, for customer-1 to customer-5.
const KAFKA_PROFILE: [u64; 5] = [50, 15, 30, 5, 50];

/// Publish events: how many, how fast, and how they were taken
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk send                                         100 events to http://127.0.0.1:9000/webhook
  whk send --count 20000 --concurrency 32          as fast as they are taken
  whk send --subscribers --type invoice.paid       to whoever subscribes to it, with the provider's API key
  whk send --rate 200 --count 2000 --payload '{\"n\":{{seq}},\"sent\":{{now}}}'

In a payload {{seq}} is the event's number, {{now}} microseconds since 1970.
Exit status: 0 all were accepted, 1 any was refused, 64 usage, 66 a file is missing,
130 interrupted.")]
pub struct Args {
    /// The publish-server
    #[arg(long, env = "WHK_SERVER", value_name = "URL", value_parser = server_url, default_value = "http://127.0.0.1:4242")]
    server: Uri,
    /// Publish to whoever subscribes to the --type, with an API key, and not in direct mode
    #[arg(long, requires = "kind", conflicts_with_all = ["webhook_url", "target", "profile"])]
    subscribers: bool,
    /// Publish to those of this tenant alone, by name or id
    #[arg(long, requires = "kind", value_name = "TENANT", conflicts_with_all = ["webhook_url", "target", "profile"])]
    tenant: Option<String>,
    /// Direct mode: where events are delivered; repeat it to take turns
    #[arg(long, value_name = "URL", value_parser = webhook_url, default_value = "http://127.0.0.1:9000/webhook")]
    webhook_url: Vec<String>,
    /// How many events
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The scripts' mix instead of --count: kafka = 50, 15, 30, 5 and 50 events to customer-1 to customer-5
    #[arg(long, value_enum, conflicts_with_all = ["count", "target"])]
    profile: Option<Profile>,
    /// Direct mode: the tenant's name that is sent along
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The event type; repeat it to take turns
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Payload template
    #[arg(long, value_name = "JSON", default_value = PAYLOAD)]
    payload: String,
    /// File with a payload template
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    payload_file: Option<PathBuf>,
    /// Requests at once
    #[arg(long, value_parser = count, default_value_t = 8, value_name = "COUNT")]
    concurrency: usize,
    /// Events a second; as fast as they are taken where it isn't given
    #[arg(long, value_parser = rate, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    key: ApiKeyArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    Kafka,
}

/// Runs the command.
///
/// # Errors
/// A flag or a file can't be used, or any event was refused.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let text = match &args.payload_file {
        None => args.payload,
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("--payload-file: read {}", path.display()))?,
    };
    let template = Template::parse(&text).map_err(|error| UsageError(error.to_string()))?;
    let to = if args.subscribers || args.tenant.is_some() {
        let authorization = client::authorization(&args.key.read()?)?;
        Recipients::Subscribers { authorization, tenant: args.tenant }
    } else {
        Recipients::Urls(args.webhook_url)
    };
    let load = Load {
        publish_url: publish_url(&args.server)?,
        to,
        batches: match args.profile {
            None => vec![(args.target, args.count)],
            Some(Profile::Kafka) => {
                let customers = (1..).map(|number| Some(format!("customer-{number}")));
                customers.zip(KAFKA_PROFILE).collect()
            }
        },
        kinds: args.kind,
        template,
        concurrency: args.concurrency,
        rate: args.rate,
    };
    let total = load.total();
    let server = args.server.to_string();
    let server = server.trim_end_matches('/');
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;
    let progress = progress_bar(total);
    let summary = tokio::select! {
        summary = load.run(progress.clone(), shutdown.drain) => summary,
        () = shutdown.abort.cancelled() => return Err(Interrupted.into()),
    };
    progress.finish_and_clear();
    output::print(args.output, &as_text(&summary), &summary)?;
    let unsent = total.saturating_sub(summary.accepted).saturating_sub(summary.refused);
    match summary.first_refusal {
        Some(reason) if summary.is_without_server => {
            anyhow::bail!(
                "no server answers at {server} ({reason}); start one with `whk publish-server`, or pass --server"
            )
        }
        Some(reason) => {
            anyhow::bail!("{} of {total} events were refused; the first: {reason}", summary.refused)
        }
        None if unsent > 0 => {
            Err(Interrupted).with_context(|| format!("{unsent} of {total} events weren't sent"))
        }
        None => Ok(()),
    }
}

fn as_text(summary: &Summary) -> String {
    let latency = &summary.latency_ms;
    format!(
        "accepted  {}\nrefused   {}\nrate      {:.0} accepted/s over {:.2} s\nlatency   p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   max {:.2} ms\n",
        summary.accepted,
        summary.refused,
        summary.accepted_per_second,
        summary.seconds,
        latency.p50,
        latency.p90,
        latency.p99,
        latency.max,
    )
}

/// Shown on a terminal only, as indicatif does on its own.
fn progress_bar(total: u64) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} events  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn server_url(text: &str) -> Result<Uri, String> {
    EndpointUrl::parse(text).map(|url| url.uri().clone()).map_err(|error| error.to_string())
}

fn webhook_url(text: &str) -> Result<String, String> {
    EndpointUrl::parse(text).map(|url| url.uri().to_string()).map_err(|error| error.to_string())
}

fn publish_url(server: &Uri) -> Result<Uri, UsageError> {
    let base = server.path().trim_end_matches('/').trim_end_matches("/publish");
    let (scheme, authority) = (server.scheme_str().unwrap_or("http"), server.authority());
    let authority = authority.map_or("", http::uri::Authority::as_str);
    let url = format!("{scheme}://{authority}{base}/publish");
    url.parse()
        .map_err(|_| UsageError(format!("--server {server} isn't a URL that /publish can be added to")))
}
