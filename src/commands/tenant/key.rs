//! `whk tenant key`: public keys of a tenant.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::{Connection, TenantArg};
use crate::api::{NewPublicKey, Page, PublicKeyView};
use crate::client::segment;
use crate::commands::output::{fields, table};
use crate::common::crypto::keys::PublicKey;
use crate::registry::tenant::KeyState;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a public key: new events are encrypted with it at once, and the previous key becomes `retiring`. The customer
    /// must have the new private key first
    Add {
        #[command(flatten)]
        tenant: TenantArg,
        /// File with the public key: PEM, base64 of PEM, or JWK
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
    /// List a tenant's public keys
    List(TenantArg),
    /// Retire a `retiring` key, once all events encrypted with it are delivered
    Retire {
        #[command(flatten)]
        tenant: TenantArg,
        /// Id of the key, as `list` shows it
        #[arg(value_name = "KEY-ID")]
        kid: String,
    },
}

pub(super) async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { tenant, public_key } => {
            let new = read(&public_key)?;
            let key: PublicKeyView = connection.api.post(&tenant.path("/public-keys"), &new).await?;
            connection.print(&as_text(&key), &key)
        }
        Command::List(tenant) => {
            let Page { data: keys, .. }: Page<PublicKeyView> =
                connection.api.get(&tenant.path("/public-keys")).await?;
            let rows = keys.iter().map(|key| {
                [key.kid.clone(), state(key).into(), key.bits.to_string(), key.changed_at.to_string()]
            });
            connection.print(&table(["key id", "state", "bits", "since"], rows), &keys)
        }
        Command::Retire { tenant, kid } => {
            let path = tenant.path(&format!("/public-keys/{}/retire", segment(&kid)));
            let key: PublicKeyView = connection.api.post(&path, &()).await?;
            connection.print(&as_text(&key), &key)
        }
    }
}

/// Reads the public key in `--public-key`. A file that holds none fails here, with its name, and not at the server.
pub(super) fn read(path: &Path) -> anyhow::Result<NewPublicKey> {
    let key = PublicKey::read(path).context("--public-key")?;
    Ok(NewPublicKey { public_key: key.to_pem()? })
}

fn state(key: &PublicKeyView) -> &'static str {
    match key.state {
        KeyState::Active => "active",
        KeyState::Retiring => "retiring",
        KeyState::Retired => "retired",
    }
}

fn as_text(key: &PublicKeyView) -> String {
    let meaning = match key.state {
        KeyState::Active => "active: new events are encrypted with it",
        KeyState::Retiring => "retiring: events encrypted with it may still be undelivered",
        KeyState::Retired => "retired: nothing is encrypted with it any more",
    };
    fields([("key id", key.kid.clone()), ("state", meaning.into()), ("bits", key.bits.to_string())])
}
