//! The stored form of a job: a line of JSON with everything but the body. The body is stored as it is.
//!
//! ```json
//! {"v":1,"id":"msg_…","tenant":"ten_…","endpoint":"ep_…","ordered":false,"content_type":"application/jose+json",
//!  "published_at":1700000000123456,"trace":"4bf92f3577b34da6a3ce929d0e0e4736-01"}
//! ```
//!
//! In direct mode the record has `url` instead of `endpoint`, and `tenant` is the publisher's `target`. Times are
//! microseconds since 1970.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, MessageId};
use crate::common::job::{ContentType, Job, Target, TraceContext};

/// Version of the records that this whk writes.
const VERSION: u32 = 1;

/// The record as JSON.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    v: u32,
    id: MessageId,
    tenant: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<EndpointId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    ordered: bool,
    content_type: ContentType,
    published_at: i64,
    trace: TraceContext,
}

/// A stored record can't be read. The error shows none of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer whk wrote the record.
    #[error("its record has version {0}, written by a newer whk")]
    Newer(u32),
    /// The record is damaged.
    #[error("{0}")]
    Damaged(&'static str),
}

/// Encodes everything of `job` but its body.
#[must_use]
pub fn encode(job: &Job) -> String {
    let (endpoint, url) = match &job.target {
        Target::Endpoint(_, id) => (Some(*id), None),
        Target::Url(url) => (None, Some(url.uri().to_string())),
    };
    let record = Record {
        v: VERSION,
        id: job.id,
        tenant: (*job.tenant).into(),
        endpoint,
        url,
        ordered: job.ordered,
        content_type: job.content_type,
        published_at: job.published_at.as_microsecond(),
        trace: job.trace,
    };
    // A record holds only strings, numbers and flags, so this can't fail.
    serde_json::to_string(&record).unwrap_or_default()
}

/// Decodes a record and returns the job with `body`.
///
/// # Errors
/// The record is damaged, or a newer whk wrote it.
pub fn decode(record: &str, body: Bytes) -> Result<Job, RecordError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } =
        serde_json::from_str(record).map_err(|_| RecordError::Damaged("its record isn't JSON"))?;
    if v > VERSION {
        return Err(RecordError::Newer(v));
    }
    let record: Record<'_> = serde_json::from_str(record)
        .map_err(|_| RecordError::Damaged("its record has a field that is missing or invalid"))?;
    let target = match (record.endpoint, record.url) {
        (Some(endpoint), None) => {
            let tenant = record
                .tenant
                .parse()
                .map_err(|_| RecordError::Damaged("its record has an invalid tenant"))?;
            Target::Endpoint(tenant, endpoint)
        }
        (None, Some(url)) => Target::Url(
            EndpointUrl::parse(&url).map_err(|_| RecordError::Damaged("its record has an invalid URL"))?,
        ),
        _ => return Err(RecordError::Damaged("its record has no target or two targets")),
    };
    let published_at = Timestamp::from_microsecond(record.published_at)
        .map_err(|_| RecordError::Damaged("its record has an invalid time"))?;
    Ok(Job {
        id: record.id,
        tenant: (*record.tenant).into(),
        lane: target.lane(),
        ordered: record.ordered,
        target,
        content_type: record.content_type,
        body,
        published_at,
        trace: record.trace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::id::TenantId;
    use crate::queue::tests::job;

    #[test]
    fn a_job_survives_encoding_and_decoding() {
        let tenant = TenantId::new();
        let of_endpoint = Job {
            tenant: tenant.to_string().into(),
            target: Target::Endpoint(tenant, EndpointId::new()),
            ordered: true,
            content_type: ContentType::Json,
            published_at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(),
            ..job("a")
        };
        let direct = Job { tenant: "\"odd\"\n".into(), ..job("a") };
        for job in [of_endpoint, direct] {
            let job = Job { lane: job.target.lane(), ..job };
            let read = decode(&encode(&job), job.body.clone()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{job:?}"));
            assert_eq!(
                (&read.lane, read.ordered, read.content_type),
                (&job.lane, job.ordered, job.content_type)
            );
            assert_eq!((read.published_at, read.trace), (job.published_at, job.trace));
        }
    }

    #[test]
    fn an_unreadable_record_says_why() {
        let error = |record: &str| decode(record, Bytes::new()).unwrap_err();
        assert_eq!(error(""), RecordError::Damaged("its record isn't JSON"));
        assert_eq!(error(r#"{"v":2,"more":1}"#), RecordError::Newer(2));
        assert_eq!(
            error(r#"{"v":1}"#),
            RecordError::Damaged("its record has a field that is missing or invalid")
        );
        let untargeted = encode(&job("a")).replace("url", "uri");
        assert_eq!(error(&untargeted), RecordError::Damaged("its record has no target or two targets"));
    }
}
