//! `whk dlq purge`: deletes dead letters.

use serde_json::json;

use super::Connection;
use super::batches::{BatchPlan, Operation, dead_letters};
use super::select::SelectArgs;
use crate::commands::confirm::confirm;

/// Delete dead letters permanently
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk dlq purge msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq purge --tenant Acme --cause gone --dry-run
  whk dlq purge --until 7d --yes")]
pub(super) struct Args {
    #[command(flatten)]
    select: SelectArgs,
    /// Delete without asking for confirmation
    #[arg(long, help_heading = "Operation")]
    yes: bool,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let plan = BatchPlan::make(Operation::Purge, connection, &args.select).await?;
    let matched = plan.matched;
    if args.select.dry_run {
        let text = format!("{} would be purged", dead_letters(matched));
        connection.print(&text, &json!({"matched": matched, "purged": 0}))?;
        return plan.check_all_found();
    }
    if matched > 0 && !args.yes && !confirm(&format!("Delete {} permanently?", dead_letters(matched)))? {
        anyhow::bail!("nothing was purged");
    }
    let outcome = plan.run(None).await?;
    let text = format!("purged {} of {matched}", outcome.done);
    connection.print(&text, &json!({"matched": matched, "purged": outcome.done}))?;
    plan.result(outcome)
}
