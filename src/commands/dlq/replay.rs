//! `whk dlq replay`: queues dead letters again.

use serde_json::json;

use super::Connection;
use super::batches::{BatchPlan, Operation, dead_letters};
use super::select::SelectArgs;

/// Queue dead letters again, with the same message ids and a full set of new attempts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk dlq replay msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq replay --endpoint ep_01a209f4d3b77799ba0b9eef9de10ff4 --dry-run
  whk dlq replay --tenant Acme --since 2h --rate 50
  whk dlq replay --all --fault system

A message that dies again during the replay isn't replayed again. When the queue is full, the replay waits for room.
The message id stays the same, so a customer who handled the message already recognizes it by webhook-id.")]
pub(super) struct Args {
    #[command(flatten)]
    select: SelectArgs,
    /// Maximum number of dead letters to replay per second. Default: as fast as the queue accepts them
    #[arg(long, help_heading = "Operation", value_name = "PER_SECOND", value_parser = crate::commands::flags::value::rate)]
    rate: Option<f64>,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let plan = BatchPlan::make(Operation::Replay, connection, &args.select).await?;
    let matched = plan.matched;
    if args.select.dry_run {
        let text = format!("{} would be replayed", dead_letters(matched));
        connection.print(&text, &json!({"matched": matched, "replayed": 0}))?;
        return plan.check_all_found();
    }
    let outcome = plan.run(args.rate).await?;
    let text = format!("replayed {} of {matched}", outcome.done);
    connection.print(&text, &json!({"matched": matched, "replayed": outcome.done}))?;
    plan.result(outcome)
}
