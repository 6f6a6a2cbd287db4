//! `whk tenant endpoint`: endpoints of a tenant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Connection, TenantArg};
use crate::api::{CreatedEndpoint, EndpointUpdate, EndpointView, NewEndpoint, Published};
use crate::commands::flags::envelope::EnvelopeFlag;
use crate::commands::output::{fields, table};
use crate::common::id::EndpointId;
use crate::common::job::ContentType;
use crate::exit::UsageError;
use crate::registry::endpoint::{DisabledReason, EnvelopeKind};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Add(AddArgs),
    /// List a tenant's endpoints
    List(TenantArg),
    /// Show an endpoint
    Show(EndpointArg),
    Update(UpdateArgs),
    /// Enable an endpoint: deliver to it again
    Enable(EndpointArg),
    /// Disable an endpoint: deliver nothing more to it, and dead-letter its queued messages
    Disable(EndpointArg),
    /// Delete an endpoint and drop its queued messages
    Delete(EndpointArg),
    /// Send a test event of type whk.test to an endpoint, whatever it subscribes to
    Test(EndpointArg),
}

#[derive(Debug, clap::Args)]
pub(super) struct EndpointArg {
    #[command(flatten)]
    tenant: TenantArg,
    /// Id of the endpoint, `ep_…`
    #[arg(value_name = "ENDPOINT")]
    endpoint: EndpointId,
}

/// Add an endpoint; its signing secret is shown only once
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    tenant: TenantArg,
    /// URL to deliver events to: https and a public address, unless the server's --allow-net allows another
    #[arg(long)]
    url: String,
    /// Event types to subscribe to: `invoice.paid`, `invoice.*` for a group, `*` for all; repeat the flag or separate types
    /// with commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "TYPES")]
    events: Vec<String>,
    #[command(flatten)]
    settings: SettingFlags,
    /// Deliver in strict order: each message waits until the one before it is delivered or dead
    #[arg(long)]
    ordered: bool,
    /// File with the signing secret to use, `whsec_…`. Default: a new secret is generated
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Change an endpoint; messages already queued are delivered to the new URL and with the new headers
#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    endpoint: EndpointArg,
    /// New URL
    #[arg(long)]
    url: Option<String>,
    /// New event types, which replace all current ones
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    events: Option<Vec<String>>,
    #[command(flatten)]
    settings: SettingFlags,
    /// Turn strict order on or off: each message waits until the one before it is delivered or dead
    #[arg(long, value_name = "true|false")]
    ordered: Option<bool>,
}

/// The settings that `add` and `update` share.
#[derive(Debug, clap::Args)]
struct SettingFlags {
    /// Note that says what the endpoint is for; an empty text removes it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// File with headers to send with every delivery, one `Name: value` per line
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// Content type of deliveries. The body is the same; json suits receivers that accept no other
    #[arg(long, value_enum, value_name = "TYPE")]
    content_type: Option<ContentTypeFlag>,
    /// Format of encrypted events
    #[arg(long, value_enum, value_name = "FORMAT")]
    envelope: Option<EnvelopeFlag>,
}

impl SettingFlags {
    fn is_given(&self) -> bool {
        self.description.is_some()
            || self.headers_file.is_some()
            || self.content_type.is_some()
            || self.envelope.is_some()
    }
}

/// The value of `--content-type`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ContentTypeFlag {
    /// application/jose+json
    Jose,
    /// application/json
    Json,
}

impl From<ContentTypeFlag> for ContentType {
    fn from(flag: ContentTypeFlag) -> Self {
        match flag {
            ContentTypeFlag::Jose => Self::Jose,
            ContentTypeFlag::Json => Self::Json,
        }
    }
}

impl EndpointArg {
    pub(super) fn path(&self, rest: &str) -> String {
        self.tenant.path(&format!("/endpoints/{}{rest}", self.endpoint))
    }
}

pub(super) async fn run(connection: &Connection, command: Command) -> anyhow::Result<()> {
    let switch = |enabled| EndpointUpdate { enabled: Some(enabled), ..EndpointUpdate::default() };
    match command {
        Command::Add(args) => add(connection, args).await,
        Command::List(tenant) => {
            let endpoints: Vec<EndpointView> = connection.api.list(&tenant.path("/endpoints")).await?;
            let rows = endpoints.iter().map(|endpoint| {
                [endpoint.id.to_string(), endpoint.url.clone(), endpoint.events.join(", "), state(endpoint)]
            });
            connection.print(&table(["id", "url", "events", "state"], rows), &endpoints)
        }
        Command::Show(endpoint) => {
            let endpoint: EndpointView = connection.api.get(&endpoint.path("")).await?;
            connection.print(&as_text(&endpoint), &endpoint)
        }
        Command::Update(args) => update(connection, args).await,
        Command::Enable(endpoint) => patch(connection, &endpoint, &switch(true)).await,
        Command::Disable(endpoint) => patch(connection, &endpoint, &switch(false)).await,
        Command::Delete(endpoint) => {
            connection.api.delete::<()>(&endpoint.path("")).await?;
            let deleted = json!({"id": endpoint.endpoint, "deleted": true});
            connection.print(&format!("{} is deleted", endpoint.endpoint), &deleted)
        }
        Command::Test(endpoint) => {
            let published: Published = connection.api.post(&endpoint.path("/test"), &()).await?;
            let ids: Vec<String> = published.messages.iter().map(|message| message.id.to_string()).collect();
            let text = fields([("event id", published.event_id.to_string()), ("message id", ids.join(", "))]);
            connection.print(&text, &published)
        }
    }
}

async fn add(connection: &Connection, args: AddArgs) -> anyhow::Result<()> {
    let secret = args.secret_file.as_deref().map(read_secret).transpose()?;
    let new = NewEndpoint {
        url: args.url,
        events: args.events,
        description: args.settings.description.filter(|text| !text.is_empty()),
        headers: args.settings.headers_file.as_deref().map(read_headers).transpose()?.unwrap_or_default(),
        content_type: args.settings.content_type.map(ContentType::from).unwrap_or_default(),
        envelope: args.settings.envelope.map(EnvelopeKind::from).unwrap_or_default(),
        ordered: args.ordered,
        secret,
    };
    let created: CreatedEndpoint = connection.api.post(&args.tenant.path("/endpoints"), &new).await?;
    let secret = format!("{}  shown only once: hand it to the customer", created.secret);
    let text = as_text(&created.about) + "\n" + &fields([("signing secret", secret)]);
    connection.print(&text, &created)
}

async fn update(connection: &Connection, args: UpdateArgs) -> anyhow::Result<()> {
    let settings = args.settings;
    let is_given = [args.url.is_some(), args.events.is_some(), settings.is_given(), args.ordered.is_some()];
    if !is_given.contains(&true) {
        return Err(UsageError("nothing to change; pass --url, --events or another setting".into()).into());
    }
    let headers = settings.headers_file.as_deref().map(read_headers).transpose()?;
    let update = EndpointUpdate {
        url: args.url,
        events: args.events,
        description: settings.description.map(|text| Some(text).filter(|text| !text.is_empty())),
        headers,
        content_type: settings.content_type.map(ContentType::from),
        envelope: settings.envelope.map(EnvelopeKind::from),
        ordered: args.ordered,
        enabled: None,
    };
    patch(connection, &args.endpoint, &update).await
}

async fn patch(
    connection: &Connection,
    endpoint: &EndpointArg,
    update: &EndpointUpdate,
) -> anyhow::Result<()> {
    let endpoint: EndpointView = connection.api.patch(&endpoint.path(""), update).await?;
    connection.print(&as_text(&endpoint), &endpoint)
}

/// Reads the first secret of `--secret-file`.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<String> {
    let secrets = crate::common::crypto::signature::Secret::read_all(path).context("--secret-file")?;
    Ok(secrets.first().map(|secret| secret.reveal().to_string()).unwrap_or_default())
}

/// Reads `Name: value` lines. An error names the line and doesn't quote it, because a header may be a secret.
fn read_headers(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--headers-file: read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        let header = line.split_once(':').map(|(name, value)| (name.trim().into(), value.trim().into()));
        header.ok_or_else(|| {
            let line = index.saturating_add(1);
            UsageError(format!("--headers-file {}, line {line}: expected `Name: value`", path.display()))
        })
    };
    Ok(lines.map(parse).collect::<Result<_, _>>()?)
}

fn state(endpoint: &EndpointView) -> String {
    let Some(reason) = endpoint.disabled_reason else { return "enabled".into() };
    let reason = match reason {
        DisabledReason::ByTenant => "by its tenant",
        DisabledReason::ByProvider => "by the provider",
        DisabledReason::Gone => "because it answered 410 Gone",
    };
    format!("disabled {reason}")
}

fn as_text(endpoint: &EndpointView) -> String {
    let envelope = match endpoint.envelope {
        EnvelopeKind::Jwe => "jwe",
        EnvelopeKind::RsaOaep => "rsa-oaep",
    };
    fields([
        ("id", endpoint.id.to_string()),
        ("url", endpoint.url.clone()),
        ("events", endpoint.events.join(", ")),
        ("state", state(endpoint)),
        ("description", endpoint.description.clone().unwrap_or_default()),
        ("headers", endpoint.header_names.join(", ")),
        ("content type", endpoint.content_type.as_str().into()),
        ("envelope", envelope.into()),
        ("ordered", endpoint.ordered.to_string()),
        ("live secrets", endpoint.live_secrets.to_string()),
    ])
}
