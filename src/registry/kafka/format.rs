//! Records of the log, and assembling them into changes. No I/O.

use rdkafka::Message;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::registry::record::Write;

/// Key of the one record that describes the registry itself.
pub(super) const META: &str = "meta";
/// Header that names the change that a record belongs to.
const CHANGE: &str = "whk-change";
/// Version that is written, of the meta record and of the header.
pub(super) const VERSION: u64 = 1;

/// Value of the meta record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) v: u64,
    /// Id of the registry.
    pub(super) id: String,
    /// Known text sealed with the secret key, as base64.
    #[serde(default)]
    pub(super) check: String,
}

/// Value of the header: the change, and which of its records this is, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChangePart {
    v: u64,
    id: String,
    n: usize,
    of: usize,
}

impl ChangePart {
    pub(super) fn new(id: &str, n: usize, of: usize) -> Self {
        Self { v: VERSION, id: id.to_owned(), n, of }
    }

    pub(super) fn header(&self) -> OwnedHeaders {
        // Serializing strings and numbers can't fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        OwnedHeaders::new_with_capacity(1).insert(Header { key: CHANGE, value: Some(&json) })
    }
}

/// A record that was read from the log.
#[derive(Debug, Clone)]
pub(super) struct LogRecord {
    pub(super) offset: i64,
    /// `None` if its header wasn't written by whk. The record is then a change of its own.
    part: Option<ChangePart>,
    /// `None` if key or value isn't UTF-8.
    write: Option<Write>,
}

impl LogRecord {
    /// Parses a message. Logs one that isn't UTF-8.
    pub(super) fn parse(message: &impl Message) -> Self {
        let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == CHANGE));
        let part = header.and_then(|header| serde_json::from_slice(header.value?).ok());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let key = message.key().and_then(text);
        let write = key.and_then(|key| match message.payload() {
            None => Some((key, None)),
            Some(value) => Some((key, Some(text(value)?))),
        });
        if write.is_none() {
            tracing::error!(offset = message.offset(), "a record of the registry isn't text; it is skipped");
        }
        Self { offset: message.offset(), part, write }
    }
}

/// A change with all its records that are left in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AssembledChange {
    /// Id of the change. Empty if its record has no header.
    pub(super) id: String,
    /// Offset of its last record.
    pub(super) offset: i64,
    pub(super) writes: Vec<Write>,
}

/// Collects the records of a change until it is complete, because a part of a change must not be visible.
#[derive(Debug, Default)]
pub(super) struct ChangeAssembler {
    incomplete: Option<AssembledChange>,
}

impl ChangeAssembler {
    /// Adds the next record. Returns the changes that it completes.
    pub(super) fn add(&mut self, record: LogRecord) -> Vec<AssembledChange> {
        let LogRecord { offset, part, write } = record;
        let (id, is_last) = match part {
            Some(ChangePart { id, n, of, .. }) => (id, n >= of),
            None => (String::new(), true),
        };
        // If another change begins, compaction removed the rest of this one: later records of the same keys replace it.
        let previous = self.incomplete.take_if(|incomplete| incomplete.id != id || id.is_empty());
        let current =
            self.incomplete.get_or_insert_with(|| AssembledChange { id, offset, writes: Vec::new() });
        current.offset = offset;
        current.writes.extend(write);
        let complete = if is_last { self.incomplete.take() } else { None };
        previous.into_iter().chain(complete).collect()
    }

    /// Returns the last change at the end of the log. No more of it can come, because a transaction becomes readable as
    /// a whole.
    pub(super) fn finish(&mut self) -> Option<AssembledChange> {
        self.incomplete.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, id: &str, n: usize, of: usize) -> LogRecord {
        let write = Some((format!("k{offset}"), None));
        LogRecord { offset, part: Some(ChangePart::new(id, n, of)), write }
    }

    /// Id, offset and number of writes of each change.
    fn summary(changes: impl IntoIterator<Item = AssembledChange>) -> Vec<(String, i64, usize)> {
        changes.into_iter().map(|change| (change.id, change.offset, change.writes.len())).collect()
    }

    #[test]
    fn a_change_is_returned_once_all_its_records_are_there() {
        let mut assembler = ChangeAssembler::default();
        assert_eq!(assembler.add(record(0, "a", 1, 3)), []);
        assert_eq!(assembler.add(record(1, "a", 2, 3)), []);
        assert_eq!(summary(assembler.add(record(2, "a", 3, 3))), [("a".into(), 2, 3)]);
        assert_eq!(assembler.finish(), None);
    }

    #[test]
    fn a_compacted_change_is_returned_with_the_next_one_or_at_the_end() {
        let mut assembler = ChangeAssembler::default();
        assert_eq!(assembler.add(record(4, "a", 1, 3)), []);
        assert_eq!(summary(assembler.add(record(9, "b", 2, 2))), [("a".into(), 4, 1), ("b".into(), 9, 1)]);
        assert_eq!(assembler.add(record(11, "c", 2, 3)), []);
        assert_eq!(summary(assembler.finish()), [("c".into(), 11, 1)]);
        let without_header = LogRecord { offset: 20, part: None, write: Some(("k".into(), None)) };
        assert_eq!(assembler.add(record(19, "d", 1, 2)), []);
        assert_eq!(summary(assembler.add(without_header)), [("d".into(), 19, 1), (String::new(), 20, 1)]);
    }
}
