//! `whk dlq replay`.

use serde_json::json;

use super::Connection;
use super::batches::{Act, Plan, dead_letters};
use super::select::SelectArgs;

/// Queue dead letters again: with the same ids, and all their attempts before them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk dlq replay msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq replay --endpoint ep_01a209f4d3b77799ba0b9eef9de10ff4 --dry-run
  whk dlq replay --tenant Acme --since 2h --rate 50
  whk dlq replay --all --fault system

What dies again after the start isn't replayed again. Where the queue is full, it waits. Customers
dedupe by webhook-id, which stays the same.")]
pub(super) struct Args {
    #[command(flatten)]
    select: SelectArgs,
    /// How many a second; as fast as the queue takes them without it
    #[arg(long, help_heading = "How", value_name = "PER_SECOND", value_parser = crate::commands::flags::value::rate)]
    rate: Option<f64>,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let plan = Plan::make(Act::Replay, connection, &args.select).await?;
    let matched = plan.matched;
    if args.select.dry_run {
        let text = format!("{} would be replayed", dead_letters(matched));
        connection.print(&text, &json!({"matched": matched, "replayed": 0}))?;
        return plan.complete();
    }
    let outcome = plan.carry_out(args.rate).await?;
    let text = format!("replayed {} of {matched}", outcome.done);
    connection.print(&text, &json!({"matched": matched, "replayed": outcome.done}))?;
    plan.result(outcome)
}
