//! `whk message`: shows the state of a message and its attempts.

use super::flags::connection::{Connection, ConnectionArgs};
use crate::api::MessageView;
use crate::client::segment;
use crate::commands::output::{fields, table};
use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};

/// Show the state of a message and its latest attempts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk message msg_01a20a3c5d8b7c11a0b1c2d3e4f50617
  WHK_API_KEY=whk_tenant_… whk message --tenant me msg_01a20a3c5d8b7c11a0b1c2d3e4f50617

The server knows every message that is queued or dead, and the latest delivered ones: their number is its \
--message-history. It keeps the latest attempts of each. With --queue kafka it knows dead letters only.
Exit status: 0 done, 1 the server knows no such message, 64 usage, 66 a file doesn't exist, 69 the server can't be reached, \
77 the API key has no permission.")]
pub struct Args {
    /// Id of the message: in the answer to the publisher, and in the webhook-id header at the customer
    #[arg(value_name = "MESSAGE-ID")]
    id: MessageId,
    #[command(flatten)]
    tenant: TenantFilter,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The flag that limits a command to the messages of one tenant.
#[derive(Debug, clap::Args)]
pub(super) struct TenantFilter {
    /// Only messages of this tenant, given by name or id. With a tenant's own API key, pass `--tenant me`
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
}

impl TenantFilter {
    /// Returns the path of `rest` in the API, below the tenant's path if a tenant is given.
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
        ("tenant", tenant_text(message.tenant, message.target.as_deref())),
        ("endpoint", endpoint_text(message.endpoint, message.origin.as_deref())),
        ("state", state),
        ("published", format!("{:.3}", message.published_at)),
    ]);
    about + &attempts_as_text(&message.attempts)
}

/// Returns the tenant of a message as text, or its target in direct mode.
pub(super) fn tenant_text(tenant: Option<TenantId>, target: Option<&str>) -> String {
    match (tenant, target) {
        (Some(tenant), _) => tenant.to_string(),
        // The publisher chose this text. Debug format escapes control characters, which could move the cursor.
        (None, Some(target)) => format!("direct mode, target {target:?}"),
        (None, None) => String::new(),
    }
}

/// Returns the endpoint of a message as text, or its URL's origin in direct mode.
pub(super) fn endpoint_text(endpoint: Option<EndpointId>, origin: Option<&str>) -> String {
    endpoint.map_or_else(|| origin.unwrap_or_default().to_owned(), |endpoint| endpoint.to_string())
}

/// Returns an empty line, then a table of attempts.
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

/// Replaces line breaks and other control characters, which could move the cursor, in text from outside.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_can_not_move_the_cursor() {
        assert_eq!(tenant_text(None, Some("a\u{1b}[2J")), "direct mode, target \"a\\u{1b}[2J\"");
        assert_eq!(one_line("connect:\r\n\u{1b}[2Jrefused"), "connect:   [2Jrefused");
    }
}
