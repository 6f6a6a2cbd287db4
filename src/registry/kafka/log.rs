//! What the log holds, and putting records together into changes. No I/O.

use rdkafka::Message;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::registry::record::Write;

/// The key of the one record that is about the registry itself.
pub(super) const META: &str = "meta";
/// The header that says to which change a record belongs.
const CHANGE: &str = "whk-change";
/// The version that is written, of both.
pub(super) const VERSION: u64 = 1;

/// What the registry is, and a known text sealed with its secret key (base64).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) v: u64,
    pub(super) id: String,
    #[serde(default)]
    pub(super) check: String,
}

/// To which change a record belongs: which one of how many it is, from 1 on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    v: u64,
    id: String,
    n: usize,
    of: usize,
}

impl Part {
    pub(super) fn new(id: &str, n: usize, of: usize) -> Self {
        Self { v: VERSION, id: id.to_owned(), n, of }
    }

    pub(super) fn header(&self) -> OwnedHeaders {
        // Strings and numbers alone: nothing that can't be written.
        let json = serde_json::to_string(self).unwrap_or_default();
        OwnedHeaders::new_with_capacity(1).insert(Header { key: CHANGE, value: Some(&json) })
    }
}

/// A record as it was read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) offset: i64,
    /// None where its header isn't ours: it is a change of its own then.
    part: Option<Part>,
    /// None where it isn't text.
    write: Option<Write>,
}

impl Entry {
    pub(super) fn of(message: &impl Message) -> Self {
        let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == CHANGE));
        let part = header.and_then(|header| serde_json::from_slice(header.value?).ok());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let key = message.key().and_then(text);
        let write = key.and_then(|key| match message.payload() {
            None => Some((key, None)),
            Some(value) => Some((key, Some(text(value)?))),
        });
        if write.is_none() {
            tracing::error!(
                offset = message.offset(),
                "a record of the registry isn't text; it is passed over"
            );
        }
        Self { offset: message.offset(), part, write }
    }
}

/// One change, of which nothing may be seen without the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Which; empty where its records don't say.
    pub(super) id: String,
    /// Of its last record.
    pub(super) offset: i64,
    pub(super) writes: Vec<Write>,
}

/// Holds the records of a change until all are there.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    open: Option<Whole>,
}

impl Gathering {
    /// Takes the next record; gives the changes that are whole with it.
    pub(super) fn take(&mut self, entry: Entry) -> Vec<Whole> {
        let Entry { offset, part, write } = entry;
        let (id, is_last) = match part {
            Some(Part { id, n, of, .. }) => (id, n >= of),
            None => (String::new(), true),
        };
        // The rest of the one before has been compacted away: later records of the same keys take its place.
        let before = self.open.take_if(|open| open.id != id || id.is_empty());
        let open = self.open.get_or_insert_with(|| Whole { id, offset, writes: Vec::new() });
        open.offset = offset;
        open.writes.extend(write);
        let whole = if is_last { self.open.take() } else { None };
        before.into_iter().chain(whole).collect()
    }

    /// At the end of the log, where no more of a change can come: a transaction is read whole or not at all.
    pub(super) fn end(&mut self) -> Option<Whole> {
        self.open.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, id: &str, n: usize, of: usize) -> Entry {
        let write = Some((format!("k{offset}"), None));
        Entry { offset, part: Some(Part::new(id, n, of)), write }
    }

    fn ids(whole: impl IntoIterator<Item = Whole>) -> Vec<(String, i64, usize)> {
        whole.into_iter().map(|whole| (whole.id, whole.offset, whole.writes.len())).collect()
    }

    #[test]
    fn a_change_is_given_once_all_of_it_is_there() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.take(entry(0, "a", 1, 3)), []);
        assert_eq!(gathering.take(entry(1, "a", 2, 3)), []);
        assert_eq!(ids(gathering.take(entry(2, "a", 3, 3))), [("a".into(), 2, 3)]);
        assert_eq!(gathering.end(), None);
    }

    #[test]
    fn what_compaction_left_of_a_change_is_given_with_the_next_or_at_the_end() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.take(entry(4, "a", 1, 3)), []);
        assert_eq!(ids(gathering.take(entry(9, "b", 2, 2))), [("a".into(), 4, 1), ("b".into(), 9, 1)]);
        assert_eq!(gathering.take(entry(11, "c", 2, 3)), []);
        assert_eq!(ids(gathering.end()), [("c".into(), 11, 1)]);
        let bare = Entry { offset: 20, part: None, write: Some(("k".into(), None)) };
        assert_eq!(gathering.take(entry(19, "d", 1, 2)), []);
        assert_eq!(ids(gathering.take(bare)), [("d".into(), 19, 1), (String::new(), 20, 1)]);
    }
}
