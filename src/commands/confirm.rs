//! Asks for confirmation before something is deleted for good.

use std::io::{self, IsTerminal as _, Write as _};

use crate::exit::UsageError;

/// Asks `question` on the terminal. Returns whether the answer is yes.
///
/// # Errors
/// stdin isn't a terminal, so the question can't be answered, or it can't be read.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(UsageError(format!(
            "{question} This can't be undone; pass --yes to confirm without a terminal"
        ))
        .into());
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
