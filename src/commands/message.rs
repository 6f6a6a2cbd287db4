//! `whk message`: where a message stands, and what its attempts came to.

use super::flags::connection::{Connection, ConnectionArgs};
use crate::api::MessageView;
use crate::client::segment;
use crate::commands::output::{fields, table};
use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};

/// Show where a message stands, and what its attempts came to
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk message msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  WHK_API_KEY=whk_tenant_… whk message --tenant me msg_01a20a3c5d8b7c11a0b1c2d3e4f50617

What is queued or dead is known, and the latest that were delivered (the server's
--message-history). The last attempts of each are kept.
Exit status: 0 done, 1 there is no such message, 64 usage, 66 a file is missing, 69 the server isn't
reachable, 77 the API key isn't permitted.")]
pub struct Args {
    /// The message's id, as its publisher was answered and its customer sees it as webhook-id
    #[arg(value_name = "MESSAGE-ID")]
    id: MessageId,
    #[command(flatten)]
    tenant: OfTenantArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Whose messages are meant.
#[derive(Debug, clap::Args)]
pub(super) struct OfTenantArg {
    /// Of this tenant alone, by name or id; `me` for a tenant's own API key, which sees no other
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
}

impl OfTenantArg {
    /// A path in the API, below the tenant's where there is one.
    pub(super) fn path(&self, rest: &str) -> String {
        match &self.tenant {
            None => rest.to_owned(),
            Some(tenant) => format!("/tenants/{}{rest}", segment(tenant)),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The server can't be reached, or knows no such message that the API key may see.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let connection: Connection = args.connection.open()?;
    let message: MessageView =
        connection.api.get(&args.tenant.path(&format!("/messages/{}", args.id))).await?;
    connection.print(&as_text(&message), &message)
}

fn as_text(message: &MessageView) -> String {
    let state = message.cause.map_or_else(
        || message.state.as_str().to_owned(),
        |cause| format!("{}: {}", message.state.as_str(), cause.as_str()),
    );
    let about = fields([
        ("id", message.id.to_string()),
        ("tenant", whose(message.tenant, message.target.as_deref())),
        ("endpoint", place(message.endpoint, message.origin.as_deref())),
        ("state", state),
        ("published", format!("{:.3}", message.published_at)),
    ]);
    about + &attempts_as_text(&message.attempts)
}

/// Whose a message is, for people.
pub(super) fn whose(tenant: Option<TenantId>, target: Option<&str>) -> String {
    match (tenant, target) {
        (Some(tenant), _) => tenant.to_string(),
        // A stranger's text: nothing of it may move the cursor.
        (None, Some(target)) => format!("direct mode, target {target:?}"),
        (None, None) => String::new(),
    }
}

/// Where a message goes, for people.
pub(super) fn place(endpoint: Option<EndpointId>, origin: Option<&str>) -> String {
    endpoint.map_or_else(|| origin.unwrap_or_default().to_owned(), |endpoint| endpoint.to_string())
}

/// Attempts for people, a line each, after an empty one.
pub(super) fn attempts_as_text(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "\nno attempts yet\n".into();
    }
    let rows = attempts.iter().map(|attempt| {
        let result = match (&attempt.error, attempt.status) {
            (Some(error), _) => one_line(error),
            (None, status) => status.map(|status| format!("answered {status}")).unwrap_or_default(),
        };
        [format!("{:.3}", attempt.at), format!("{} ms", attempt.latency_ms), result]
    });
    format!("\n{}", table(["attempt at", "took", "result"], rows))
}

/// Text of others on one line, without what would move the cursor.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_can_not_move_the_cursor() {
        assert_eq!(whose(None, Some("a\u{1b}[2J")), "direct mode, target \"a\\u{1b}[2J\"");
        assert_eq!(one_line("connect:\r\n\u{1b}[2Jrefused"), "connect:   [2Jrefused");
    }
}
