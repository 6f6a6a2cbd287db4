//! Step 3, `whk customer`: receives, verifies, decrypts, prints or forwards.

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
use crate::customer::{CustomerConfig, Faults, ReceiverConfig, router};

/// Receive deliveries: verify, decrypt, print one JSON line an event, or forward to your application
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk customer --secret-file signing_secret.txt                   prints events, one JSON line each
  whk customer --secret-file s.txt --forward http://localhost:3000/hooks
                                                                  a sidecar: your application gets plain JSON,
                                                                  signed with the same secret
  whk customer --allow-unsigned --fail-rate 0.2 --delay 50ms      plays a flaky customer

Each event: {\"id\":…,\"type\":…,\"time\":…,\"data\":…}. An id that was handled is answered 200 and not printed again.
Answers: 200 handled, 400 can't be opened, 401 signature, 409 same id in hand, 413 too large, 5xx on purpose or forwarded.")]
pub struct Args {
    /// Private key to decrypt with; repeat it to go on opening what was sealed with a retired key
    #[arg(long, value_name = "FILE", default_value = "private_key.pem")]
    private_key: Vec<PathBuf>,
    /// Opens encrypted private keys: the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Verify signatures with the secrets in this file, one `whsec_…` a line
    #[arg(long, value_name = "FILE", required_unless_present = "allow_unsigned")]
    secret_file: Option<PathBuf>,
    /// Believe deliveries without a signature; whoever has the public key can make them, or send old ones again
    #[arg(long, conflicts_with = "secret_file")]
    allow_unsigned: bool,
    /// How far webhook-timestamp may be from this machine's clock
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "DURATION")]
    tolerance: Duration,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Name or address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    hostname: String,
    /// Path that deliveries come to
    #[arg(long, value_parser = path, default_value = "/webhook")]
    path: String,
    /// Hand decrypted messages to this URL and answer with its status, instead of printing
    #[arg(long, value_name = "URL", value_parser = forward_url)]
    forward: Option<Uri>,
    /// Ids that are remembered to recognise what came before
    #[arg(long, default_value = "100000", value_name = "COUNT")]
    dedupe_window: NonZeroUsize,
    /// Bytes of a delivery; larger ones are answered 413
    #[arg(long, value_parser = at_least_one, default_value_t = 2 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Connections at once
    #[arg(long, value_parser = count, default_value_t = 1_024, value_name = "COUNT")]
    max_connections: usize,
    /// How long a connection may be silent before a request, and take to send its headers
    #[arg(long, value_parser = duration, default_value = "90s", value_name = "DURATION")]
    idle_timeout: Duration,
    /// How long requests in flight may take after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    drain_timeout: Duration,
    #[command(flatten)]
    faults: FaultArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Playing a bad customer")]
struct FaultArgs {
    /// Share of deliveries that fail on purpose, 0 to 1
    #[arg(long, value_parser = share, default_value_t = 0.0, value_name = "SHARE")]
    fail_rate: f64,
    /// What those are answered
    #[arg(long, value_parser = status, default_value = "500", value_name = "STATUS")]
    fail_status: StatusCode,
    /// Wait this long before every answer
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    delay: Duration,
}

/// How long a delivery's body may take to come.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Runs the command until a signal stops it.
///
/// # Errors
/// A flag or a file can't be used, or the port isn't free.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let passphrase =
        args.passphrase_file.as_deref().map(Passphrase::read).transpose().context("--passphrase-file")?;
    let keys = args.private_key.iter().map(|path| PrivateKey::read(path, passphrase.as_ref()));
    let keys = keys.collect::<Result<Vec<_>, _>>().context("--private-key")?;
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
        tracing::warn!("signatures aren't checked (--allow-unsigned)");
    }
    tracing::info!(address = %address_of(&listener), path = args.path, ?key_ids, "taking deliveries");
    let limits = ServeLimits { connections: args.max_connections, idle: args.idle_timeout };
    let serving = tokio::spawn(serve(listener, router(config), limits, shutdown.drain.clone()));

    shutdown.drain.cancelled().await;
    match shutdown.abort.run_until_cancelled(tokio::time::timeout(args.drain_timeout, serving)).await {
        None => Err(Interrupted.into()),
        Some(Err(_)) => anyhow::bail!("deliveries were still in flight after --drain-timeout"),
        Some(Ok(_)) => Ok(()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1 is needed".into()),
    }
}

fn status(text: &str) -> Result<StatusCode, String> {
    match text.parse::<StatusCode>() {
        Ok(status) if status.as_u16() >= 300 => Ok(status),
        _ => Err("an HTTP status from 300 to 999 is needed".into()),
    }
}

fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if text.starts_with('/') && text.bytes().all(plain) {
        return Ok(text.into());
    }
    Err("a path such as /webhook is needed, of letters, digits and / - _ . ~".into())
}

fn forward_url(text: &str) -> Result<Uri, String> {
    EndpointUrl::parse(text).map(|url| url.uri().clone()).map_err(|error| error.to_string())
}
