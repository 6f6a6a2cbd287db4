//! Where a command finds the API key that it presents.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::commands::DATA_DIR;
use crate::common::data_dir::DataDir;

/// The variable that holds the API key: never a flag, since arguments can be seen by other users.
const API_KEY: &str = "WHK_API_KEY";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "API key")]
pub(crate) struct ApiKeyArgs {
    /// File with the API key, where WHK_API_KEY isn't set
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The server's data dir, to find the provider's key in, where no other key is given
    #[arg(long, global = true, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

impl ApiKeyArgs {
    /// The key.
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
            None => from_file(&DataDir::provider_key_in(&self.data_dir))
                .with_context(|| format!("no API key: set {API_KEY}, or pass --api-key-file or --data-dir")),
        }
    }
}
