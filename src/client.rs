//! Client of a publish-server's HTTP API, for `whk tenant`, `whk dlq` and `whk message`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::api::{Page, ProblemView};
use crate::common::http::{self as plumbing, BodyError, PlainClient, plain_client, read_body};

/// Time limit for a response, and again for its body.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a response, in bytes. A page of a hundred endpoints of the largest size fits into it.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Error of a call to the HTTP API.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server couldn't be reached.
    #[error("no server answers at {server}; start one with `whk publish-server`, or pass --server")]
    Unreachable {
        /// URL of the server.
        server: String,
        /// Cause of the failure.
        source: hyper_util::client::legacy::Error,
    },
    /// The server didn't respond in time.
    #[error("no response from {server} within {} s; look for the cause in the server's log", TIMEOUT.as_secs())]
    TimedOut {
        /// URL of the server.
        server: String,
    },
    /// The server refused the request.
    #[error("{detail} ({status})")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Reason that the server gave.
        detail: String,
    },
    /// The response couldn't be read to its end.
    #[error("read the server's response")]
    Broken(#[from] BodyError),
    /// The response isn't one that a publish-server of this version gives.
    #[error(
        "the server at {server} isn't a whk publish-server of this version (status {status}); check --server"
    )]
    UnexpectedResponse {
        /// URL of the server.
        server: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// The API key has characters that a header can't hold.
    #[error("the API key has characters that no key has; check that only the key was copied")]
    Key,
}

/// Client of one server, with an API key. `Debug` hides the key.
pub struct ApiClient {
    client: PlainClient,
    server: String,
    authorization: HeaderValue,
}

impl ApiClient {
    /// Creates a client for `server` (scheme, host and port) with an API key.
    ///
    /// # Errors
    /// The key has characters that a header can't hold.
    pub fn new(server: &Uri, key: &str) -> Result<Self, ClientError> {
        let authorization = authorization(key)?;
        let server = server.to_string().trim_end_matches('/').to_owned();
        Ok(Self { client: plain_client(1), server, authorization })
    }

    /// Gets one resource.
    ///
    /// # Errors
    /// The server can't be reached, refuses the request, or isn't a publish-server.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Gets a whole list, page by page.
    ///
    /// # Errors
    /// The server can't be reached, refuses the request, or isn't a publish-server.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}?limit=100{cursor}")).await?;
            items.extend(page.data);
            match page.next_cursor {
                None => return Ok(items),
                Some(next) => cursor = format!("&cursor={}", segment(&next)),
            }
        }
    }

    /// Sends a POST request with a JSON body.
    ///
    /// # Errors
    /// The server can't be reached, refuses the request, or isn't a publish-server.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends a PATCH request with a JSON body.
    ///
    /// # Errors
    /// The server can't be reached, refuses the request, or isn't a publish-server.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// Sends a DELETE request. `T` is `()` if the response is empty.
    ///
    /// # Errors
    /// The server can't be reached, refuses the request, or isn't a publish-server.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let server = || self.server.clone();
        let body = body.map(serde_json::to_vec).transpose().unwrap_or_default();
        let unexpected = |status| ClientError::UnexpectedResponse { server: server(), status };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(plumbing::USER_AGENT))
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| unexpected(StatusCode::BAD_REQUEST))?;
        let response = match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(result) => result.map_err(|source| ClientError::Unreachable { server: server(), source })?,
            Err(_) => return Err(ClientError::TimedOut { server: server() }),
        };
        let status = response.status();
        let body =
            Zeroizing::new(read_body(response.into_body(), MAX_RESPONSE_BYTES, TIMEOUT).await?.to_vec());
        if status.is_success() {
            // `()` deserializes from `null`.
            let json = if body.is_empty() { b"null" } else { body.as_slice() };
            return serde_json::from_slice(json).map_err(|_| unexpected(status));
        }
        let problem: ProblemView = serde_json::from_slice(&body).map_err(|_| unexpected(status))?;
        Err(ClientError::Refused { status, detail: problem.detail })
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Returns the `Authorization` header for an API key.
///
/// # Errors
/// The key has characters that a header can't hold.
pub fn authorization(key: &str) -> Result<HeaderValue, ClientError> {
    let bearer = Zeroizing::new(format!("Bearer {}", key.trim()));
    let mut authorization = HeaderValue::try_from(bearer.as_str()).map_err(|_| ClientError::Key)?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

/// Percent-encodes a name as one segment of a path.
pub fn segment(name: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}
