//! `whk tenant`: who events are delivered to, and where, over the HTTP API.

mod api_key;
mod endpoint;
mod key;
mod manage;
mod onboard;
mod secret;

use clap::Subcommand;

use super::confirm::confirm;
use super::flags::connection::{Connection, ConnectionArgs};

/// Manage tenants: subscribe customers, their API keys, public keys, endpoints and signing secrets
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
A customer subscribes in one go:
  whk tenant onboard Acme --public-key public_key.pem --url https://acme.example/webhook --events 'invoice.*,user.created'

or step by step:
  whk tenant create Acme
  whk tenant api-key create Acme                   for the customer, who can do the rest with it
  whk tenant key add Acme --public-key public_key.pem
  whk tenant endpoint add Acme --url https://acme.example/webhook --events 'invoice.*'
  whk tenant endpoint test Acme ep_…

Tenants are named by name or id; a customer with its own API key says `me`.
The API key comes from WHK_API_KEY, or --api-key-file, or provider_key.txt in the server's --data-dir.
Exit status: 0 done, 1 the server refused, 64 usage, 66 a file is missing, 69 the server isn't reachable,
77 the API key isn't permitted.")]
pub struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Onboard(onboard::Args),
    Create(manage::CreateArgs),
    /// List tenants
    List,
    /// Show a tenant
    Show(TenantArg),
    Update(manage::UpdateArgs),
    Delete(manage::DeleteArgs),
    /// API keys, with which a tenant manages what is its own
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// The provider's own API keys
    #[command(subcommand)]
    ProviderKey(api_key::ProviderCommand),
    /// Public keys, to which a tenant's events are sealed
    #[command(subcommand)]
    Key(key::Command),
    /// Endpoints, where a tenant's events go
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Signing secrets, by which a customer knows who sent an event
    #[command(subcommand)]
    Secret(secret::Command),
}

#[derive(Debug, clap::Args)]
struct TenantArg {
    /// The tenant's name or id; `me` for the API key's own
    #[arg(value_name = "TENANT")]
    tenant: String,
}

/// A tenant, for what only the provider may do.
#[derive(Debug, clap::Args)]
struct NamedTenantArg {
    /// The tenant's name or id
    #[arg(value_name = "TENANT")]
    tenant: String,
}

impl TenantArg {
    fn path(&self, rest: &str) -> String {
        path_of(&self.tenant, rest)
    }
}

impl NamedTenantArg {
    fn path(&self, rest: &str) -> String {
        path_of(&self.tenant, rest)
    }
}

/// A tenant's path in the API, with `rest` after it.
fn path_of(tenant: &str, rest: &str) -> String {
    format!("/tenants/{}{rest}", crate::client::segment(tenant))
}

/// Runs the command.
///
/// # Errors
/// A flag or a file can't be used, the server can't be reached, or it refuses.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let connection = args.connection.open()?;
    match args.command {
        Command::Onboard(args) => onboard::run(&connection, args).await,
        Command::Create(args) => manage::create(&connection, args).await,
        Command::List => manage::list(&connection).await,
        Command::Show(tenant) => manage::show(&connection, &tenant).await,
        Command::Update(args) => manage::update(&connection, args).await,
        Command::Delete(args) => manage::delete(&connection, args).await,
        Command::ApiKey(command) => api_key::run(&connection, command).await,
        Command::ProviderKey(command) => api_key::run_for_provider(&connection, command).await,
        Command::Key(command) => key::run(&connection, command).await,
        Command::Endpoint(command) => endpoint::run(&connection, command).await,
        Command::Secret(command) => secret::run(&connection, command).await,
    }
}
