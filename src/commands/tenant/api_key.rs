//! `whk tenant api-key` and `whk tenant provider-key`: API keys of tenants and of the provider.

use clap::Subcommand;
use serde_json::json;

use super::{Connection, NamedTenantArg};
use crate::api::{ApiKeyView, CreatedApiKey, NewApiKey};
use crate::commands::output::{fields, table};
use crate::common::id::ApiKeyId;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an API key for a tenant; the key is shown only once
    Create {
        #[command(flatten)]
        tenant: NamedTenantArg,
        #[command(flatten)]
        new: NewKeyArgs,
    },
    /// List a tenant's API keys by id and first characters
    List(NamedTenantArg),
    /// Revoke an API key at once
    Revoke {
        #[command(flatten)]
        tenant: NamedTenantArg,
        #[command(flatten)]
        key: KeyIdArg,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ProviderCommand {
    /// Create another API key for the provider; the key is shown only once
    Create(NewKeyArgs),
    /// List the provider's API keys by id and first characters
    List,
    /// Revoke an API key of the provider at once; the last one can't be revoked
    Revoke(KeyIdArg),
}

#[derive(Debug, clap::Args)]
pub(super) struct NewKeyArgs {
    /// Note that says what the key is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct KeyIdArg {
    /// Id of the key, `key_…`, as `list` shows it; not the key itself
    #[arg(value_name = "KEY-ID")]
    key: ApiKeyId,
}

pub(super) async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { tenant, new } => {
            create(connection, &tenant.path("/api-keys"), new, "hand it to the customer").await
        }
        Command::List(tenant) => list(connection, &tenant.path("/api-keys")).await,
        Command::Revoke { tenant, key } => revoke(connection, &tenant.path("/api-keys"), key).await,
    }
}

pub(super) async fn run_for_provider(
    connection: &Connection,
    command: ProviderCommand,
) -> anyhow::Result<()> {
    match command {
        ProviderCommand::Create(new) => create(connection, "/api-keys", new, "keep it secret").await,
        ProviderCommand::List => list(connection, "/api-keys").await,
        ProviderCommand::Revoke(key) => revoke(connection, "/api-keys", key).await,
    }
}

async fn create(connection: &Connection, path: &str, new: NewKeyArgs, advice: &str) -> anyhow::Result<()> {
    let new = NewApiKey { description: new.description };
    let created: CreatedApiKey = connection.api.post(path, &new).await?;
    let text = fields([
        ("key id", created.about.id.to_string()),
        ("API key", format!("{}  shown only once: {advice}", created.key)),
    ]);
    connection.print(&text, &created)
}

async fn list(connection: &Connection, path: &str) -> anyhow::Result<()> {
    let keys: Vec<ApiKeyView> = connection.api.list(path).await?;
    let rows = keys.iter().map(|key| {
        let description = key.description.clone().unwrap_or_default();
        [key.id.to_string(), key.hint.clone(), description, key.created_at.to_string()]
    });
    connection.print(&table(["key id", "begins with", "description", "created"], rows), &keys)
}

async fn revoke(connection: &Connection, path: &str, KeyIdArg { key }: KeyIdArg) -> anyhow::Result<()> {
    connection.api.delete::<()>(&format!("{path}/{key}")).await?;
    connection.print(&format!("{key} is revoked"), &json!({"id": key, "revoked": true}))
}
