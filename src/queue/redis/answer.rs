//! The answer of `claim.lua`.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use redis::Value;

use super::shards::Totals;
use crate::common::id::MessageId;
use crate::queue::throttle::EndpointHealth;

/// The answer of one shard.
pub(super) struct ClaimAnswer {
    /// Time until something becomes due. `None` if nothing will.
    pub(super) wait: Option<Duration>,
    /// Whether lanes were skipped because this process has too few free slots.
    pub(super) slots_short: bool,
    /// Jobs and bytes of the shard.
    pub(super) totals: Totals,
    /// Redis' clock, in µs.
    pub(super) time: u64,
    /// Ids of jobs whose keys are missing.
    pub(super) missing: Vec<String>,
    /// The leased jobs.
    pub(super) jobs: Vec<LeasedJob>,
}

/// A leased job as Redis stores it.
pub(super) struct LeasedJob {
    pub(super) id: MessageId,
    pub(super) token: u64,
    pub(super) failures: u32,
    pub(super) first_attempt_at: Option<Timestamp>,
    pub(super) ordered: bool,
    /// Health of the lane's endpoint when the lease was made.
    pub(super) health: EndpointHealth,
    pub(super) record: String,
    pub(super) body: Option<Bytes>,
}

impl ClaimAnswer {
    /// Decodes an answer. Fields that can't be read get their defaults, and a job without id is left out: its lease
    /// expires.
    pub(super) fn decode(values: Vec<Value>) -> Self {
        let mut values = values.into_iter();
        let mut number = || values.next().and_then(number);
        let (wait, slots_short, jobs, bytes, time) = (number(), number(), number(), number(), number());
        Self {
            // -1 says that nothing becomes due.
            wait: wait.and_then(|wait| u64::try_from(wait).ok()).map(Duration::from_micros),
            slots_short: slots_short == Some(1),
            totals: Totals { jobs: unsigned(jobs), bytes: unsigned(bytes) },
            time: unsigned(time),
            missing: values.next().into_iter().flat_map(array).filter_map(text).collect(),
            jobs: values.filter_map(LeasedJob::decode).collect(),
        }
    }
}

impl LeasedJob {
    fn decode(value: Value) -> Option<Self> {
        let mut fields = array(value).into_iter();
        Some(Self {
            id: fields.next().and_then(text)?.parse().ok()?,
            token: unsigned(fields.next().and_then(number)),
            failures: u32::try_from(unsigned(fields.next().and_then(number))).unwrap_or(u32::MAX),
            first_attempt_at: fields
                .next()
                .and_then(number)
                .and_then(|time| Timestamp::from_microsecond(time).ok()),
            ordered: fields.next().and_then(number) == Some(1),
            health: match fields.next().and_then(text).as_deref() {
                Some("well") => EndpointHealth::Healthy,
                Some("new") => EndpointHealth::New,
                _ => EndpointHealth::Failing,
            },
            record: fields.next().and_then(text).unwrap_or_default(),
            body: fields.next().and_then(bytes),
        })
    }
}

fn array(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { Vec::new() }
}

fn number(value: Value) -> Option<i64> {
    redis::from_redis_value(value).ok()
}

fn unsigned(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

fn text(value: Value) -> Option<String> {
    if let Value::BulkString(bytes) = value { String::from_utf8(bytes).ok() } else { None }
}

fn bytes(value: Value) -> Option<Bytes> {
    if let Value::BulkString(bytes) = value { Some(bytes.into()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_is_decoded_field_by_field() {
        let id = MessageId::new();
        let job = [&*id.to_string(), "7", "2", "1700000000000000", "1", "well", "{}", "body"].map(bulk);
        let answer = ClaimAnswer::decode(vec![
            bulk("1500"),
            Value::Int(1),
            Value::Int(3),
            Value::Int(40),
            bulk("1700000000000001"),
            Value::Array(vec![bulk("msg_gone")]),
            Value::Array(job.to_vec()),
            Value::Array(vec![bulk("no id")]),
        ]);
        assert_eq!(answer.wait, Some(Duration::from_micros(1_500)));
        assert!(answer.slots_short);
        assert_eq!(answer.totals, Totals { jobs: 3, bytes: 40 });
        assert_eq!(answer.time, 1_700_000_000_000_001);
        assert_eq!(answer.missing, ["msg_gone"]);
        let [job] = &answer.jobs[..] else { panic!("one job has an id") };
        assert_eq!((job.id, job.token, job.failures, job.ordered), (id, 7, 2, true));
        assert_eq!(job.health, EndpointHealth::Healthy);
        assert_eq!(job.body.as_deref(), Some(&b"body"[..]));
    }

    #[test]
    fn an_empty_answer_is_decoded_to_defaults() {
        let answer = ClaimAnswer::decode(Vec::new());
        assert_eq!((answer.wait, answer.time, answer.jobs.len()), (None, 0, 0));
        assert_eq!(ClaimAnswer::decode(vec![bulk("-1")]).wait, None, "nothing becomes due");
    }
}
