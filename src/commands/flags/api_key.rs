//! The flags that name the API key to present.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::commands::DATA_DIR;
use crate::common::data_dir::DataDir;

/// The environment variable with the API key. It is never a flag, because other users can see the arguments of a process.
const API_KEY: &str = "WHK_API_KEY";

/// The flags about the API key.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "API key")]
pub(crate) struct ApiKeyArgs {
    /// File with the API key, if the variable WHK_API_KEY isn't set
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The server's data dir, whose provider_key.txt is used if no other API key is given
    #[arg(long, global = true, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

impl ApiKeyArgs {
    /// Reads the key from the variable, the file, or the data dir, in this order.
    ///
    /// # Errors
    /// None of them has a key, or a file can't be read.
    pub(crate) fn read(&self) -> anyhow::Result<Zeroizing<String>> {
        let from_file = |path: &Path| {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            text.with_context(|| format!("read API key {}", path.display()))
        };
        if let Some(key) = std::env::var(API_KEY).ok().filter(|key| !key.trim().is_empty()) {
            return Ok(Zeroizing::new(key));
        }
        match &self.api_key_file {
            Some(path) => from_file(path).context("--api-key-file"),
            None => from_file(&DataDir::provider_key_in(&self.data_dir)).with_context(|| {
                format!(
                    "no API key found: set {API_KEY}, pass --api-key-file, or pass the server's --data-dir"
                )
            }),
        }
    }
}
