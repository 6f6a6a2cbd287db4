//! The flags of commands that call a server: its URL, the API key, and the format of the result.

use http::Uri;
use serde::Serialize;

use super::api_key::ApiKeyArgs;
use crate::client::ApiClient;
use crate::commands::output::{self, OutputFormat};
use crate::common::endpoint_url::EndpointUrl;
use crate::exit::UsageError;

/// The flags about the server to call.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectionArgs {
    /// URL of the publish-server
    #[arg(long, global = true, env = "WHK_SERVER", value_name = "URL", value_parser = server_url, default_value = "http://127.0.0.1:4242")]
    server: Uri,
    #[command(flatten)]
    key: ApiKeyArgs,
    /// Format of the result
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    output: OutputFormat,
}

/// A client for the server, and the format of results.
pub(crate) struct Connection {
    pub(crate) api: ApiClient,
    output: OutputFormat,
}

impl ConnectionArgs {
    /// Reads the API key and returns a client that presents it. Nothing is sent yet.
    ///
    /// # Errors
    /// No API key is found, or it can't be sent in a header.
    pub(crate) fn open(&self) -> anyhow::Result<Connection> {
        let key = self.key.read()?;
        Ok(Connection { api: ApiClient::new(&self.server, &key)?, output: self.output })
    }
}

impl Connection {
    /// Prints a result: `text` or, with `--output json`, `value`.
    pub(crate) fn print(&self, text: &str, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(output::print(self.output, text, value)?)
    }
}

fn server_url(text: &str) -> Result<Uri, UsageError> {
    let needed = || UsageError("expected a URL such as http://127.0.0.1:4242".into());
    let url = EndpointUrl::parse(text).map_err(|_| needed())?;
    match url.uri().query() {
        None => Ok(url.uri().clone()),
        Some(_) => Err(needed()),
    }
}
