//! `whk dlq show`: prints one dead letter.

use super::Connection;
use crate::api::DeadLetterBody;
use crate::commands::message::{TenantFilter, attempts_as_text, endpoint_text, one_line, tenant_text};
use crate::commands::output::fields;
use crate::common::id::MessageId;
use crate::common::retry::Fault;

/// Show a dead letter and its attempts; with --output json also its encrypted body
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk dlq show msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  whk dlq show msg_01a20a3c5d8b7c11a0b1c2d3e4f50617 --output json | jq .body")]
pub(super) struct Args {
    /// Id of the message
    #[arg(value_name = "MESSAGE-ID")]
    id: MessageId,
    #[command(flatten)]
    tenant: TenantFilter,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let path = args.tenant.path(&format!("/dead-letters/{}", args.id));
    let dead: DeadLetterBody = connection.api.get(&path).await?;
    connection.print(&as_text(&dead), &dead)
}

fn as_text(dead: &DeadLetterBody) -> String {
    let letter = &dead.about;
    let fault = match letter.fault {
        Fault::Customer => "the customer's fault",
        Fault::System => "the system's fault",
    };
    let body = match &dead.body {
        Some(_) => format!("{} encrypted bytes of {}", letter.bytes, dead.content_type.as_str()),
        None => "damaged, so it can't be replayed".into(),
    };
    let about = fields([
        ("id", letter.id.to_string()),
        ("tenant", tenant_text(letter.tenant, letter.target.as_deref())),
        ("endpoint", endpoint_text(letter.endpoint, letter.origin.as_deref())),
        ("cause", format!("{}, {fault}", letter.cause.as_str())),
        ("detail", one_line(&letter.detail)),
        ("attempts", letter.attempt_count.to_string()),
        ("published", format!("{:.3}", letter.published_at)),
        ("dead since", format!("{:.3}", letter.died_at)),
        ("body", body),
    ]);
    about + &attempts_as_text(&dead.attempts)
}
