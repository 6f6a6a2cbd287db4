//! `whk tenant api-key`.

use clap::Subcommand;
use serde_json::json;

use super::{Connection, TenantArg};
use crate::api::{ApiKeyView, CreatedApiKey, NewApiKey};
use crate::client::segment;
use crate::common::output::{fields, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an API key for a tenant; it is shown this once
    Create {
        #[command(flatten)]
        tenant: TenantArg,
        /// A note for people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List a tenant's API keys: their ids and first characters
    List(TenantArg),
    /// Revoke an API key, at once
    Revoke {
        #[command(flatten)]
        tenant: TenantArg,
        /// The key's id, `key_…`: not the key
        #[arg(value_name = "KEY-ID")]
        key: String,
    },
}

pub(super) async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { tenant, description } => {
            let new = NewApiKey { description };
            let created: CreatedApiKey = connection.api.post(&tenant.path("/api-keys"), &new).await?;
            let text = fields([
                ("key id", created.about.id.to_string()),
                ("API key", format!("{}  shown this once: hand it to the customer", created.key)),
            ]);
            connection.print(&text, &created)
        }
        Command::List(tenant) => {
            let keys: Vec<ApiKeyView> = connection.api.list(&tenant.path("/api-keys")).await?;
            let rows = keys.iter().map(|key| {
                let description = key.description.clone().unwrap_or_default();
                [key.id.to_string(), key.hint.clone(), description, key.created_at.to_string()]
            });
            connection.print(&table(["key id", "begins with", "description", "created"], rows), &keys)
        }
        Command::Revoke { tenant, key } => {
            let path = tenant.path(&format!("/api-keys/{}", segment(&key)));
            connection.api.delete::<()>(&path).await?;
            connection.print(&format!("{key} is revoked"), &json!({"id": key, "revoked": true}))
        }
    }
}
