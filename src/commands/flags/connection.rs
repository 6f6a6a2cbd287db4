//! Which server, with which key, and how the result is shown.

use http::Uri;
use serde::Serialize;

use super::api_key::ApiKeyArgs;
use crate::client::ApiClient;
use crate::commands::output::{self, OutputFormat};
use crate::common::endpoint_url::EndpointUrl;
use crate::exit::UsageError;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectionArgs {
    /// The publish-server
    #[arg(long, global = true, env = "WHK_SERVER", value_name = "URL", value_parser = server_url, default_value = "http://127.0.0.1:4242")]
    server: Uri,
    #[command(flatten)]
    key: ApiKeyArgs,
    /// Form of the result
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    output: OutputFormat,
}

/// A server to call, and the form in which to show what it says.
pub(crate) struct Connection {
    pub(crate) api: ApiClient,
    output: OutputFormat,
}

impl ConnectionArgs {
    pub(crate) fn open(&self) -> anyhow::Result<Connection> {
        let key = self.key.read()?;
        Ok(Connection { api: ApiClient::new(&self.server, &key)?, output: self.output })
    }
}

impl Connection {
    /// Prints a result, for people or for programs.
    pub(crate) fn print(&self, text: &str, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(output::print(self.output, text, value)?)
    }
}

fn server_url(text: &str) -> Result<Uri, UsageError> {
    let needed = || UsageError("a URL such as http://127.0.0.1:4242 is needed".into());
    let url = EndpointUrl::parse(text).map_err(|_| needed())?;
    match url.uri().query() {
        None => Ok(url.uri().clone()),
        Some(_) => Err(needed()),
    }
}
