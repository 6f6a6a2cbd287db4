//! Helpers shared by the tests of queues.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::QueueConfig;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::MessageId;
use crate::common::job::{ContentType, Job, Lane, Target, TraceContext};
use crate::common::retry::{Cause, Failure, RetryPolicy, Verdict};

/// Returns the configuration of a queue of 100 jobs: 32 leases at once, 4 per lane, of one minute each.
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

/// Returns a job of a lane.
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

/// Returns the verdict on a job whose retries are used up.
pub(super) fn dead() -> Verdict {
    Verdict::Dead { cause: Cause::Exhausted(Failure::TimedOut) }
}
