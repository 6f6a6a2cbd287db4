//! Which server, with which key, and how the result is shown.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http::Uri;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::client::ApiClient;
use crate::commands::DATA_DIR;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::output::{self, OutputFormat};
use crate::exit::UsageError;
use crate::registry::data_dir::DataDir;

/// The variable that holds the API key: never a flag, since arguments can be seen by other users.
const API_KEY: &str = "WHK_API_KEY";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ConnectionArgs {
    /// The publish-server
    #[arg(long, global = true, env = "WHK_SERVER", value_name = "URL", value_parser = server_url, default_value = "http://127.0.0.1:4242")]
    server: Uri,
    /// File with the API key, where WHK_API_KEY isn't set
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The server's data dir, to find the provider's key in, where no other key is given
    #[arg(long, global = true, env = "WHK_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Form of the result
    #[arg(long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
}

/// A server to call, and the form in which to show what it says.
pub(super) struct Connection {
    pub(super) api: ApiClient,
    output: OutputFormat,
}

impl ConnectionArgs {
    pub(super) fn open(&self) -> anyhow::Result<Connection> {
        let key = self.key()?;
        Ok(Connection { api: ApiClient::new(&self.server, &key)?, output: self.output })
    }

    fn key(&self) -> anyhow::Result<Zeroizing<String>> {
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

impl Connection {
    /// Prints a result, for people or for programs.
    pub(super) fn print(&self, text: &str, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(output::print(self.output, text, value)?)
    }
}

fn server_url(text: &str) -> Result<Uri, UsageError> {
    let url = EndpointUrl::parse(text).map_err(|error| UsageError(error.to_string()))?;
    match url.uri().query() {
        None => Ok(url.uri().clone()),
        Some(_) => Err(UsageError("a URL such as http://127.0.0.1:4242 is needed, without a query".into())),
    }
}
