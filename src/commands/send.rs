//! Step 4, `whk send`: publishes many events, at a rate or as fast as possible, and summarizes the responses.

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

/// Default payload: that of the Deno script `4_publish.sh`.
const PAYLOAD: &str = r#"{"hello":"world","id":"{{seq}}"}"#;

/// Numbers of events that the Deno script `4_kafka_publish.sh` sends to customer-1 to customer-5.
const KAFKA_PROFILE: [u64; 5] = [50, 15, 30, 5, 50];

/// Publish many events, and report how many were accepted and how fast
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk send --subscribers --type invoice.paid
      publish 100 events to all endpoints that subscribe to invoice.paid, with the provider's API key
  whk send --count 20000 --concurrency 32
      direct mode: publish as fast as the server accepts, for delivery to http://127.0.0.1:9000/webhook
  whk send --rate 200 --count 2000 --payload '{\"n\":{{seq}},\"sent\":{{now}}}'
      publish 200 events per second

In a payload {{seq}} stands for the number of the event, from 1, and {{now}} for microseconds since 1970.
Without --subscribers or --tenant events are published in direct mode, which a server started with --public-key accepts; \
other servers answer 401.
Exit status: 0 all events were accepted, 1 an event was refused, 64 usage, 66 a file doesn't exist, 130 interrupted.")]
pub struct Args {
    /// URL of the publish-server
    #[arg(long, env = "WHK_SERVER", value_name = "URL", value_parser = server_url, default_value = "http://127.0.0.1:4242")]
    server: Uri,
    /// Publish to all endpoints that subscribe to --type, with an API key, instead of in direct mode
    #[arg(long, requires = "kind", conflicts_with_all = ["webhook_url", "target", "profile"])]
    subscribers: bool,
    /// Publish to the subscribed endpoints of this tenant only, given by name or id
    #[arg(long, requires = "kind", value_name = "TENANT", conflicts_with_all = ["webhook_url", "target", "profile"])]
    tenant: Option<String>,
    /// Direct mode: URL to deliver the events to; repeat the flag to use several URLs in turn
    #[arg(long, value_name = "URL", value_parser = webhook_url, default_value = "http://127.0.0.1:9000/webhook")]
    webhook_url: Vec<String>,
    /// Number of events to publish
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Direct mode: publish a predefined mix of targets instead of --count events
    #[arg(long, value_enum, conflicts_with_all = ["count", "target"])]
    profile: Option<Profile>,
    /// Direct mode: `target` of the events, a name of your choice for their recipient
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Type of the events, such as invoice.paid; repeat the flag to use several types in turn
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Payload of each event, in which {{seq}} and {{now}} are replaced
    #[arg(long, value_name = "JSON", default_value = PAYLOAD)]
    payload: String,
    /// File with the payload, instead of --payload
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    payload_file: Option<PathBuf>,
    /// Maximum number of requests at once
    #[arg(long, value_parser = count, default_value_t = 8, value_name = "COUNT")]
    concurrency: usize,
    /// Events to publish per second. Default: as fast as the server accepts
    #[arg(long, value_parser = rate, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Format of the result
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    key: ApiKeyArgs,
}

/// The value of `--profile`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    /// The mix of the Deno script 4_kafka_publish.sh: 50, 15, 30, 5 and 50 events to customer-1 to customer-5
    Kafka,
}

/// Runs the command.
///
/// # Errors
/// A flag or a file can't be used, an event was refused, or a signal came.
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
    let is_direct = matches!(to, Recipients::Urls(_));
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
            let hint = match is_direct && reason.starts_with("401") {
                true => {
                    "; pass --subscribers or --tenant, or turn direct mode on with `whk publish-server --public-key`"
                }
                false => "",
            };
            anyhow::bail!("{} of {total} events were refused; the first: {reason}{hint}", summary.refused)
        }
        None if unsent > 0 => {
            Err(Interrupted).with_context(|| format!("{unsent} of {total} events weren't published"))
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

/// Returns a progress bar. indicatif shows it on a terminal only.
fn progress_bar(total: u64) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} events  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn server_url(text: &str) -> Result<Uri, String> {
    let url = EndpointUrl::parse(text).map_err(|_| "expected a URL such as http://127.0.0.1:4242")?;
    Ok(url.uri().clone())
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
        .map_err(|_| UsageError(format!("--server {server} isn't a URL such as http://127.0.0.1:4242")))
}
