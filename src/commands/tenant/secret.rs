//! `whk tenant secret`: signing secrets of an endpoint.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::Connection;
use super::endpoint::{EndpointArg, read_secret};
use crate::api::{RotateSecret, SecretView};
use crate::commands::flags::value::duration;
use crate::commands::output::fields;

/// Maximum overlap that the server allows: 30 days.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 86_400);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Give an endpoint a new signing secret; the old ones still sign for the time of --overlap
    Rotate {
        #[command(flatten)]
        endpoint: EndpointArg,
        /// Time in which deliveries also carry signatures of the old secrets, so that the customer can switch; at most 30d
        #[arg(long, value_parser = overlap, default_value = "24h", value_name = "DURATION")]
        overlap: Duration,
        /// File with the new secret, `whsec_…`. Default: a new secret is generated
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap = duration(text)?;
    if overlap > MAX_OVERLAP { Err("expected at most 30d".into()) } else { Ok(overlap) }
}

pub(super) async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    let Command::Rotate { endpoint, overlap, secret_file } = command;
    let rotate = RotateSecret {
        overlap_seconds: u32::try_from(overlap.as_secs()).ok(),
        secret: secret_file.as_deref().map(read_secret).transpose()?,
    };
    let rotated: SecretView = connection.api.post(&endpoint.path("/rotate-secret"), &rotate).await?;
    let text = fields([
        ("signing secret", format!("{}  shown only once: hand it to the customer", rotated.secret)),
        ("live secrets", rotated.live_secrets.to_string()),
    ]);
    connection.print(&text, &rotated)
}
