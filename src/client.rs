//! A client of the HTTP API: what `whk tenant` and `whk dlq` speak to a publish-server with.

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

/// How long an answer may take.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of an answer: a page of a hundred endpoints at their largest.
const MOST_ANSWER_BYTES: usize = 16 << 20;

/// Why a call didn't succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server can't be reached.
    #[error("call {server}; is it running, and is --server right?")]
    Unreachable {
        /// As it was named.
        server: String,
        /// What hyper said.
        source: hyper_util::client::legacy::Error,
    },
    /// It didn't answer in time.
    #[error("{server} didn't answer within {} s", TIME.as_secs())]
    TimedOut {
        /// As it was named.
        server: String,
    },
    /// It refused, and said why.
    #[error("{detail} ({status})")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        detail: String,
    },
    /// The answer broke off.
    #[error("answer of the server")]
    Broken(#[from] BodyError),
    /// It isn't a publish-server of this version.
    #[error("what answers at {server} isn't a whk publish-server of this version ({status})")]
    NotOurs {
        /// As it was named.
        server: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// The key can't be put into a header.
    #[error("the API key isn't one: it holds characters that no key has")]
    Key,
}

/// One server, and a key for it. `Debug` hides the key.
pub struct ApiClient {
    client: PlainClient,
    server: String,
    authorization: HeaderValue,
}

impl ApiClient {
    /// A client for `server`, its scheme, host and port, with an API key.
    ///
    /// # Errors
    /// The key holds characters that can't be sent.
    pub fn new(server: &Uri, key: &str) -> Result<Self, ClientError> {
        let authorization = authorization(key)?;
        let server = server.to_string().trim_end_matches('/').to_owned();
        Ok(Self { client: plain_client(1), server, authorization })
    }

    /// GETs one thing.
    ///
    /// # Errors
    /// The server can't be reached, refuses, or isn't ours.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// GETs a whole list, page by page.
    ///
    /// # Errors
    /// The server can't be reached, refuses, or isn't ours.
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

    /// POSTs.
    ///
    /// # Errors
    /// The server can't be reached, refuses, or isn't ours.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// PATCHes.
    ///
    /// # Errors
    /// The server can't be reached, refuses, or isn't ours.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// DELETEs; `T` is `()` where the answer is empty.
    ///
    /// # Errors
    /// The server can't be reached, refuses, or isn't ours.
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
        let not_ours = |status| ClientError::NotOurs { server: server(), status };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(plumbing::USER_AGENT))
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| not_ours(StatusCode::BAD_REQUEST))?;
        let response = match tokio::time::timeout(TIME, self.client.request(request)).await {
            Ok(answered) => {
                answered.map_err(|source| ClientError::Unreachable { server: server(), source })?
            }
            Err(_) => return Err(ClientError::TimedOut { server: server() }),
        };
        let status = response.status();
        let body = Zeroizing::new(read_body(response.into_body(), MOST_ANSWER_BYTES, TIME).await?.to_vec());
        if status.is_success() {
            // Nothing reads as null, which is what () is.
            let json = if body.is_empty() { b"null" } else { body.as_slice() };
            return serde_json::from_slice(json).map_err(|_| not_ours(status));
        }
        let problem: ProblemView = serde_json::from_slice(&body).map_err(|_| not_ours(status))?;
        Err(ClientError::Refused { status, detail: problem.detail })
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The `Authorization` header that presents an API key.
///
/// # Errors
/// The key holds characters that can't be sent.
pub fn authorization(key: &str) -> Result<HeaderValue, ClientError> {
    let bearer = Zeroizing::new(format!("Bearer {}", key.trim()));
    let mut authorization = HeaderValue::try_from(bearer.as_str()).map_err(|_| ClientError::Key)?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}
