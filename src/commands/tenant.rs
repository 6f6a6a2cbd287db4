//! `whk tenant`: manages tenants, their keys and endpoints over the HTTP API.

mod api_key;
mod endpoint;
mod key;
mod manage;
mod onboard;
mod secret;

use clap::Subcommand;

use super::confirm::confirm;
use super::flags::connection::{Connection, ConnectionArgs};

/// Manage tenants (customers): their API keys, public keys, endpoints and signing secrets
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Subscribe a customer in one step:
  whk tenant onboard Acme --public-key public_key.pem \\
       --url https://acme.example/webhook --events 'invoice.*,user.created'

or step by step:
  whk tenant create Acme
  whk tenant api-key create Acme
      the customer can do the rest with this key
  whk tenant key add Acme --public-key public_key.pem
  whk tenant endpoint add Acme --url https://acme.example/webhook \\
       --events 'invoice.*'
  whk tenant endpoint test Acme ep_…

A tenant is given by name or id; a customer with its own API key writes `me`.
The API key is read from WHK_API_KEY, --api-key-file, or provider_key.txt in the server's --data-dir.
Exit status: 0 done, 1 the server refused, 64 usage, 66 a file doesn't exist, 69 the server can't be reached, 77 the API key \
has no permission.")]
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
    /// Manage the API keys with which a tenant manages its own keys and endpoints
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// Manage the provider's own API keys
    #[command(subcommand)]
    ProviderKey(api_key::ProviderCommand),
    /// Manage the public keys that a tenant's events are encrypted with
    #[command(subcommand)]
    Key(key::Command),
    /// Manage the endpoints that a tenant's events are delivered to
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Manage the signing secrets by which a customer verifies deliveries
    #[command(subcommand)]
    Secret(secret::Command),
}

/// A tenant, for commands that a tenant may run for itself.
#[derive(Debug, clap::Args)]
struct TenantArg {
    /// Name or id of the tenant; `me` for the tenant of the API key
    #[arg(value_name = "TENANT")]
    tenant: String,
}

/// A tenant, for commands that only the provider may run.
#[derive(Debug, clap::Args)]
struct NamedTenantArg {
    /// Name or id of the tenant
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

/// Returns a tenant's path in the API, followed by `rest`.
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
