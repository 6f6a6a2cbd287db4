//! Step 3, `whk customer`: receives deliveries, verifies and decrypts them, and prints or forwards the events.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use http::{StatusCode, Uri};

use super::flags::value::{at_least_one, count, duration};
use crate::common::crypto::envelope::Opener;
use crate::common::crypto::keys::{Passphrase, PrivateKey};
use crate::common::crypto::signature::{Secret, Signer, Verifier};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::http::{ServeLimits, address_of, bind, serve};
use crate::common::shutdown::{Interrupted, Shutdown};
use crate::common::task;
use crate::customer::{CustomerConfig, Faults, ReceiverConfig, router};

/// Receive deliveries: verify and decrypt them, then print one JSON line per event or forward it to your application
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk customer --secret-file signing_secret.txt
      print each event as one JSON line
  whk customer --secret-file signing_secret.txt --forward http://localhost:3000/hooks
      run as a sidecar: the application gets plain JSON, signed with the same secret
  whk customer --allow-unsigned --fail-rate 0.2 --delay 50ms
      play a customer whose server is slow and fails

Each line: {\"id\":…,\"type\":…,\"time\":…,\"data\":…}. A message that comes again is answered 200 and not printed again.

Answers:
  200  handled                                409  the same message is being handled
  400  can't be decrypted or parsed           413  too large
  401  the signature is missing or wrong      5xx  failed on purpose, or the application's answer

Exit status: 0 stopped, 64 a flag, private key or secret can't be used, 66 a file doesn't exist, 69 the port isn't free, \
77 the port or a file isn't permitted, 130 a second signal came before all deliveries were answered.")]
pub struct Args {
    /// File with the private key to decrypt with (PEM). Repeat the flag to still open messages encrypted to a retired key
    #[arg(long, value_name = "FILE", default_value = "private_key.pem")]
    private_key: Vec<PathBuf>,
    /// File whose first line is the passphrase of encrypted private keys
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// File with the signing secrets to verify deliveries with, one `whsec_…` per line
    #[arg(long, value_name = "FILE", required_unless_present = "allow_unsigned")]
    secret_file: Option<PathBuf>,
    /// Accept deliveries without checking signatures: anyone with the public key can forge them, and anyone can replay old
    /// ones. For trials only
    #[arg(long, conflicts_with = "secret_file")]
    allow_unsigned: bool,
    /// Maximum difference between a delivery's webhook-timestamp and this machine's clock; older and newer ones are
    /// answered 401
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "DURATION")]
    tolerance: Duration,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Host name or address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    hostname: String,
    /// URL path of deliveries
    #[arg(long, value_parser = path, default_value = "/webhook")]
    path: String,
    /// Send decrypted events to this URL and answer with its status, instead of printing them
    #[arg(long, value_name = "URL", value_parser = forward_url)]
    forward: Option<Uri>,
    /// Number of message ids to remember, so that a message delivered twice is handled once; the oldest are forgotten first
    #[arg(long, default_value = "100000", value_name = "COUNT")]
    dedupe_window: NonZeroUsize,
    /// Maximum bytes of a delivery; larger ones are answered 413
    #[arg(long, value_parser = at_least_one, default_value_t = 2 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Maximum number of open connections; further ones wait
    #[arg(long, value_parser = count, default_value_t = 1_024, value_name = "COUNT")]
    max_connections: usize,
    /// Time a connection may stay idle between requests, or take to send the headers of one
    #[arg(long, value_parser = duration, default_value = "90s", value_name = "DURATION")]
    idle_timeout: Duration,
    /// Time to finish running requests after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    drain_timeout: Duration,
    #[command(flatten)]
    faults: FaultArgs,
}

/// The flags that make deliveries fail.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Failures on purpose")]
struct FaultArgs {
    /// Share of deliveries to fail on purpose, from 0 to 1
    #[arg(long, value_parser = share, default_value_t = 0.0, value_name = "SHARE")]
    fail_rate: f64,
    /// HTTP status of failures on purpose, from 300
    #[arg(long, value_parser = status, default_value = "500", value_name = "STATUS")]
    fail_status: StatusCode,
    /// Delay before every answer
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    delay: Duration,
}

/// Time a sender may take to send the body of a delivery.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, or the port isn't free.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let passphrase =
        args.passphrase_file.as_deref().map(Passphrase::read).transpose().context("--passphrase-file")?;
    let keys = args.private_key.iter().map(|path| PrivateKey::read(path, passphrase.as_ref()));
    let keys =
        keys.collect::<Result<Vec<_>, _>>().context("--private-key (`whk keygen` makes a key pair)")?;
    let key_ids: Vec<String> = keys.iter().map(|key| key.kid().to_owned()).collect();
    let secrets = args.secret_file.as_deref().map(Secret::read_all).transpose().context("--secret-file")?;
    let listener = bind(&args.hostname, args.port, "--port").await?;
    let shutdown = Shutdown::on_signals().context("install signal handlers")?;

    let config = CustomerConfig {
        receiver: ReceiverConfig {
            opener: Opener::new(keys),
            verifier: secrets.clone().map(|secrets| Verifier::new(secrets, args.tolerance)),
            max_body: args.max_body,
            request_time: REQUEST_TIME,
            window: args.dedupe_window,
        },
        path: args.path.clone(),
        faults: Faults {
            rate: args.faults.fail_rate,
            status: args.faults.fail_status,
            delay: args.faults.delay,
        },
        forward: args.forward.map(|url| (url, secrets.map(Signer::new))),
    };
    if args.allow_unsigned {
        tracing::warn!(
            "signatures aren't checked, because of --allow-unsigned; pass --secret-file to check them"
        );
    }
    tracing::info!(address = %address_of(&listener), path = args.path, ?key_ids, "taking deliveries");
    let limits = ServeLimits { connections: args.max_connections, idle: args.idle_timeout };
    let serving = task::spawn("http_server", serve(listener, router(config), limits, shutdown.drain.clone()));

    shutdown.drain.cancelled().await;
    match shutdown.abort.run_until_cancelled(tokio::time::timeout(args.drain_timeout, serving)).await {
        None => Err(Interrupted.into()),
        Some(Err(_)) => anyhow::bail!(
            "some deliveries were still being handled when --drain-timeout was over; the sender retries them"
        ),
        Some(Ok(_)) => Ok(()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn status(text: &str) -> Result<StatusCode, String> {
    match text.parse::<StatusCode>() {
        Ok(status) if status.as_u16() >= 300 => Ok(status),
        _ => Err("expected an HTTP status from 300 to 999".into()),
    }
}

fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if text.starts_with('/') && text.bytes().all(plain) {
        return Ok(text.into());
    }
    Err("expected a path such as /webhook, of letters, digits and / - _ . ~".into())
}

fn forward_url(text: &str) -> Result<Uri, String> {
    EndpointUrl::parse(text).map(|url| url.uri().clone()).map_err(|error| error.to_string())
}
