//! What the tests of queues share.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::QueueConfig;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job, Lane, Target, TraceContext};
use crate::common::retry::{Cause, Failure, RetryPolicy, Verdict};

/// A queue of few jobs, 32 in flight, four a lane, leases of a minute.
pub(super) fn config(ordered: bool) -> QueueConfig {
    QueueConfig {
        ordered,
        max_jobs: 100,
        max_bytes: 10_000,
        in_flight: 32,
        lane_in_flight: 4,
        lease: Duration::from_secs(60),
        retry: RetryPolicy::default(),
        history: 100,
    }
}

/// A job of that lane.
pub(super) fn job(lane: &str) -> Job {
    Job {
        id: MessageId::new(),
        tenant: "tenant".into(),
        lane: Lane::new(lane),
        ordered: false,
        target: Target::Url(EndpointUrl::parse("https://example.com/").unwrap()),
        content_type: ContentType::Jose,
        body: Bytes::from_static(b"0123456789"),
        published_at: Timestamp::UNIX_EPOCH,
        trace: TraceContext::new(),
    }
}

/// The verdict on a job whose retries are used up.
pub(super) fn dead() -> Verdict {
    Verdict::Dead { cause: Cause::Exhausted(Failure::TimedOut) }
}
