//! Reading what was put aside in `events.retry`, beside the thread that reads the logs: searching it for lanes that keep
//! order, and reading again what of such a lane had left memory. Each in a thread of its own, since it takes its time.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::error::KafkaResult;

use super::shared::Shared;
use crate::common::job::{Job, Lane};
use crate::common::kafka::KafkaConfig;
use crate::queue::kafka::held::{Aside, Away, Fetch, Fetched, Unknown};
use crate::queue::kafka::record;
use crate::queue::kafka::scan::Scan;
use crate::queue::kafka::watermarks::Ranges;

/// Before what failed is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Finds out which lanes that keep order have jobs where reading hasn't come yet.
pub(super) fn search(kafka: &KafkaConfig, shared: &Arc<Shared>, unknown: Unknown) {
    tracing::info!(
        partition = unknown.partition,
        offsets = ?unknown.offsets,
        "searching the retry topic for endpoints that keep order"
    );
    let kafka = kafka.clone();
    begin(shared, move |shared| {
        let found = or_pause(searched(&kafka, &unknown));
        shared.lock().learn(&unknown, found, shared.clock.now())
    });
}

/// Brings jobs of a lane back into memory.
pub(super) fn fetch(kafka: &KafkaConfig, shared: &Arc<Shared>, fetch: Fetch) {
    let kafka = kafka.clone();
    begin(shared, move |shared| {
        let fetched = or_pause(fetched(&kafka, &fetch));
        shared.lock().refill(&fetch, fetched, shared.clock.now())
    });
}

fn begin(shared: &Arc<Shared>, read: impl FnOnce(&Shared) -> Vec<Aside> + Send + 'static) {
    let in_thread = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("kafka-aside".into()).spawn(move || {
        let asides = read(&in_thread);
        in_thread.put_aside(&asides);
        in_thread.rang();
    });
    if let Err(error) = thread {
        // Nobody would begin it again.
        tracing::error!(%error, "start a thread that reads what was put aside");
        shared.close();
    }
}

fn or_pause<T>(read: KafkaResult<T>) -> Option<T> {
    let read = read.inspect_err(|error| {
        tracing::warn!(%error, "read what was put aside; it is tried again");
        std::thread::sleep(PAUSE);
    });
    read.ok()
}

fn searched(kafka: &KafkaConfig, unknown: &Unknown) -> KafkaResult<HashMap<Lane, Away>> {
    let mut found = HashMap::<Lane, Away>::new();
    let ranges = Ranges::from([(unknown.partition, unknown.offsets.clone())]);
    Scan::open(kafka, &kafka.topics.retry)?.read(&ranges, |message| {
        let offset = message.offset();
        let is_settled = unknown.settled.iter().any(|range| range.contains(&offset));
        let job = if is_settled { None } else { record::job(message, Bytes::new()).ok() };
        if let Some(job) = job.filter(|job| unknown.all_in_order || job.ordered) {
            found.entry(job.lane).or_default().add(offset, record::past(message).origin.unwrap_or(-1));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn fetched(kafka: &KafkaConfig, fetch: &Fetch) -> KafkaResult<Fetched> {
    let mut fetched = Fetched { jobs: Vec::new(), reached: fetch.offsets.end };
    let mut bytes = 0_usize;
    let ranges = Ranges::from([(fetch.partition, fetch.offsets.clone())]);
    Scan::open(kafka, &kafka.topics.retry)?.read(&ranges, |message| {
        let is_of_lane = |job: &Job| job.lane == fetch.lane;
        let Some(mut job) = record::job(message, Bytes::new()).ok().filter(is_of_lane) else {
            return ControlFlow::Continue(());
        };
        job.body = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        bytes = bytes.saturating_add(job.body.len());
        fetched.jobs.push((message.offset(), job, record::past(message)));
        if fetched.jobs.len() < fetch.most.jobs && bytes < fetch.most.bytes {
            return ControlFlow::Continue(());
        }
        fetched.reached = message.offset().saturating_add(1);
        ControlFlow::Break(())
    })?;
    Ok(fetched)
}
