//! `whk dlq`: dead letters, to be looked at, replayed and purged over the HTTP API.

mod batches;
mod cause;
mod list;
mod purge;
mod replay;
mod select;
mod show;

use clap::Subcommand;

use super::flags::connection::{Connection, ConnectionArgs};

/// Dead letters: list, show, replay and purge what couldn't be delivered
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
A message is dead once its retries are used up, or none would help:
  exhausted    the last retry failed                 blocked      it held up an ordered endpoint for too long
  gone         the customer answered 410             refused      the address may not be called
  disabled     its endpoint is disabled              interrupted  attempt after attempt was broken off
  damaged      what was stored can't be read
The last two are the system's fault, the others the customer's (--fault).

Examples:
  whk dlq list --tenant Acme --since 2h
  whk dlq show msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq replay --tenant Acme --dry-run           how many that would be
  whk dlq replay --tenant Acme --rate 50           once Acme is back, gently
  whk dlq purge --cause gone --until 30d --yes     what nobody waits for
  whk dlq list --tenant me                         a customer, with its own API key

The server deletes what has been dead for longer than its --dead-letter-retention (30 days).
The API key comes from WHK_API_KEY, or --api-key-file, or provider_key.txt in the server's --data-dir.
Exit status: 0 done, 1 the server refused, or only some were replayed or purged, 64 usage, 66 a file
is missing, 69 the server isn't reachable, 77 the API key isn't permitted, 130 interrupted.")]
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
