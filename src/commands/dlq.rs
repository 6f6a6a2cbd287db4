//! `whk dlq`: lists, shows, replays and purges dead letters over the HTTP API.

mod batches;
mod cause;
mod list;
mod purge;
mod replay;
mod select;
mod show;

use clap::Subcommand;

use super::flags::connection::{Connection, ConnectionArgs};

/// List, show, replay and purge dead letters: messages that couldn't be delivered
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
A message becomes a dead letter when its retries are used up, or when a retry can't help. Its cause is one of:
  exhausted    the last retry failed
  blocked      the message blocked an ordered endpoint for longer than --max-lane-block
  gone         the customer answered 410
  refused      the server doesn't allow calls to the address
  disabled     the endpoint is disabled
  interrupted  the server stopped or crashed during too many attempts
  damaged      the stored message can't be read
Interrupted and damaged are the system's fault, the others the customer's (--fault).

Examples:
  whk dlq list --tenant Acme --since 2h
  whk dlq show msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq replay --tenant Acme --dry-run
      count the dead letters that would be replayed
  whk dlq replay --tenant Acme --rate 50
      replay 50 per second, once Acme's endpoint works again
  whk dlq purge --cause gone --until 30d --yes
      delete dead letters older than 30 days whose customer answered 410
  whk dlq list --tenant me
      list your own dead letters, as a customer with an API key

The server deletes dead letters after its --dead-letter-retention (30 days by default).
The API key is read from WHK_API_KEY, --api-key-file, or provider_key.txt in the server's --data-dir.

Exit status: 0 done, 1 the server refused, or only some were replayed or purged, 64 usage, 66 a file doesn't exist, 69 the \
server can't be reached, 77 the API key has no permission, 130 interrupted.")]
pub struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Replay(replay::Args),
    Purge(purge::Args),
}

/// Runs the command.
///
/// # Errors
/// A flag or a file can't be used, the server can't be reached or refuses, or only some were replayed or purged.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let connection = args.connection.open()?;
    match args.command {
        Command::List(args) => list::run(&connection, args).await,
        Command::Show(args) => show::run(&connection, args).await,
        Command::Replay(args) => replay::run(&connection, args).await,
        Command::Purge(args) => purge::run(&connection, args).await,
    }
}
