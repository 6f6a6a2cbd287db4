//! Asking before what can't be taken back.

use std::io::{self, IsTerminal as _, Write as _};

use crate::exit::UsageError;

/// Whether who sits at the terminal says yes.
///
/// # Errors
/// There is nobody to ask, or the terminal can't be used.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(UsageError(format!("{question} This can't be taken back: pass --yes")).into());
    }
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
