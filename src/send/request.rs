//! Publish requests of a load.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Load, Recipients};

/// Body of a publish request. Members that are `None` are left out.
#[derive(Serialize)]
struct PublishBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    payload: &'a RawValue,
}

impl Load {
    /// Returns the request that publishes event `index`, counted from 0. `None` if it can't be written as JSON.
    pub(super) fn request(&self, index: u64) -> Option<Request<Full<Bytes>>> {
        let payload = self.template.fill(index.saturating_add(1));
        let (url, tenant, authorization) = match &self.to {
            Recipients::Urls(urls) => (Some(in_turn(urls, index)?), None, None),
            Recipients::Subscribers { authorization, tenant } => {
                (None, tenant.as_deref(), Some(authorization))
            }
        };
        let body = PublishBody {
            url,
            target: self.target_of(index),
            tenant,
            kind: in_turn(&self.kinds, index),
            payload: serde_json::from_str(&payload).ok()?,
        };
        let mut request = Request::new(Full::from(serde_json::to_vec(&body).ok()?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.publish_url.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(authorization.map(|key| (AUTHORIZATION, key.clone())));
        Some(request)
    }

    /// Returns the target of the batch that event `index` belongs to.
    fn target_of(&self, index: u64) -> Option<&str> {
        let mut before = 0_u64;
        for (target, count) in &self.batches {
            before = before.saturating_add(*count);
            if index < before {
                return target.as_deref();
            }
        }
        None
    }
}

/// Returns one of `texts`, the next one for each index. `None` if there are none.
fn in_turn(texts: &[String], index: u64) -> Option<&str> {
    let turn = usize::try_from(index).unwrap_or(0).checked_rem(texts.len())?;
    texts.get(turn).map(String::as_str)
}
