//! `whk dlq list`: prints dead letters as a table.

use super::Connection;
use super::select::FilterArgs;
use crate::api::{DeadLetterView, Page};
use crate::client::segment;
use crate::commands::message::{endpoint_text, one_line};
use crate::commands::output::table;

/// Maximum number of letters that the server puts on one page.
const PAGE_ITEMS: usize = 100;

/// List dead letters, the oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk dlq list --since 2h
  whk dlq list --tenant Acme --fault customer --limit 1000
  whk dlq list --cause damaged,interrupted --output json")]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Maximum number of dead letters to list
    #[arg(long, value_name = "COUNT", value_parser = crate::commands::flags::value::count, default_value_t = 100)]
    limit: usize,
}

pub(super) async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let path = args.filter.tenant.path("/dead-letters");
    let mut listed = Page { data: Vec::<DeadLetterView>::new(), next_cursor: None };
    loop {
        let wanted = args.limit.saturating_sub(listed.data.len()).min(PAGE_ITEMS);
        let cursor = listed.next_cursor.take().map(|cursor| format!("&cursor={}", segment(&cursor)));
        let query = format!("limit={wanted}{}{}", cursor.unwrap_or_default(), args.filter.query());
        let page: Page<DeadLetterView> = connection.api.get(&format!("{path}?{query}")).await?;
        let is_over = page.data.is_empty() || page.next_cursor.is_none();
        listed.data.extend(page.data);
        listed.next_cursor = page.next_cursor;
        if is_over || listed.data.len() >= args.limit {
            break;
        }
    }
    connection.print(&as_text(&listed), &listed)
}

fn as_text(listed: &Page<DeadLetterView>) -> String {
    if listed.data.is_empty() {
        return "no dead letters match".into();
    }
    let rows = listed.data.iter().map(|letter| {
        [
            letter.id.to_string(),
            endpoint_text(letter.endpoint, letter.origin.as_deref()),
            letter.cause.as_str().to_owned(),
            letter.attempt_count.to_string(),
            format!("{:.3}", letter.died_at),
            one_line(&letter.detail),
        ]
    });
    let mut text = table(["message id", "endpoint", "cause", "attempts", "dead since", "detail"], rows);
    if listed.next_cursor.is_some() {
        text += &format!(
            "\nthere are more than these {}; pass a larger --limit to see them\n",
            listed.data.len()
        );
    }
    text
}
