//! `whk tenant onboard`: subscribes a customer in one step.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use super::endpoint::read_secret;
use super::{Connection, TenantArg, key};
use crate::api::{
    CreatedApiKey, CreatedEndpoint, DeletedTenant, NewApiKey, NewEndpoint, NewPublicKey, NewTenant,
    PublicKeyView, TenantView,
};
use crate::commands::output::fields;
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::ContentType;
use crate::registry::endpoint::EnvelopeKind;

/// Subscribe a customer in one step: create the tenant, its public key, endpoint and API key
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  whk tenant onboard Acme --public-key public_key.pem \\
       --url https://acme.example/webhook --events 'invoice.*,user.created'

Prints the API key and the signing secret to hand to the customer. They are shown only once.
If a step fails, the tenant is deleted again, so the command can be repeated.")]
pub(super) struct Args {
    /// Name of the tenant; no other tenant may have it
    name: String,
    /// File with the customer's public key: PEM, base64 of PEM, or JWK
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// URL to deliver events to: https and a public address, unless the server's --allow-net allows another
    #[arg(long)]
    url: String,
    /// Event types to subscribe to: `invoice.paid`, `invoice.*` for a group, `*` for all; repeat the flag or separate types
    /// with commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "TYPES")]
    events: Vec<String>,
    /// Deliver in strict order: each message waits until the one before it is delivered or dead
    #[arg(long)]
    ordered: bool,
    /// File with a signing secret that the customer has already, `whsec_…`. Default: a new secret is generated
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// The result.
#[derive(Serialize)]
struct Onboarded {
    tenant_id: TenantId,
    name: String,
    key_id: String,
    endpoint_id: EndpointId,
    url: String,
    events: Vec<String>,
    api_key: String,
    signing_secret: String,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let public_key = key::read(&args.public_key)?;
    let secret = args.secret_file.as_deref().map(read_secret).transpose()?;
    let api = &connection.api;
    let new = NewTenant { name: args.name.clone(), limits: None };
    let tenant: TenantView = api.post("/tenants", &new).await.context("create the tenant")?;
    let made = TenantArg { tenant: tenant.id.to_string() };
    match complete_tenant(connection, &made, args, public_key, secret, &tenant).await {
        Ok(onboarded) => connection.print(&as_text(&onboarded), &onboarded),
        Err(error) => match api.delete::<DeletedTenant>(&made.path("")).await {
            Ok(_) => Err(error.context("the new tenant was deleted again, so the command can be repeated")),
            Err(left) => {
                let id = tenant.id;
                Err(error.context(format!(
                    "tenant {id} is incomplete and couldn't be deleted ({left}); delete it with `whk tenant delete {id}`"
                )))
            }
        },
    }
}

/// Adds a public key, an endpoint and an API key to a new tenant.
async fn complete_tenant(
    connection: &Connection,
    made: &TenantArg,
    args: Args,
    public_key: NewPublicKey,
    secret: Option<String>,
    tenant: &TenantView,
) -> anyhow::Result<Onboarded> {
    let api = &connection.api;
    let key: PublicKeyView =
        api.post(&made.path("/public-keys"), &public_key).await.context("add the public key")?;
    let endpoint = NewEndpoint {
        url: args.url,
        events: args.events,
        description: None,
        headers: std::collections::BTreeMap::new(),
        content_type: ContentType::default(),
        envelope: EnvelopeKind::default(),
        ordered: args.ordered,
        secret,
    };
    let endpoint: CreatedEndpoint =
        api.post(&made.path("/endpoints"), &endpoint).await.context("add the endpoint")?;
    let api_key: CreatedApiKey =
        api.post(&made.path("/api-keys"), &NewApiKey::default()).await.context("make the API key")?;
    Ok(Onboarded {
        tenant_id: tenant.id,
        name: tenant.name.clone(),
        key_id: key.kid,
        endpoint_id: endpoint.about.id,
        url: endpoint.about.url,
        events: endpoint.about.events,
        api_key: api_key.key,
        signing_secret: endpoint.secret,
    })
}

fn as_text(onboarded: &Onboarded) -> String {
    let about = fields([
        ("tenant", format!("{} ({})", onboarded.name, onboarded.tenant_id)),
        ("endpoint", format!("{} ({})", onboarded.url, onboarded.endpoint_id)),
        ("events", onboarded.events.join(", ")),
        ("encrypted to", format!("key id {}", onboarded.key_id)),
    ]);
    let for_customer = fields([
        ("API key", onboarded.api_key.clone()),
        ("signing secret", onboarded.signing_secret.clone()),
    ]);
    format!("{about}\nHand these to the customer; they are shown only once:\n{for_customer}")
}
