//! Event types, such as `invoice.paid`, and the filters by which endpoints choose them.

use std::fmt;
use std::sync::Arc;

/// Longer types are refused: the index holds every one that is subscribed to.
pub const MOST_BYTES: usize = 256;

/// An event type: dot-separated names of ASCII letters, digits and `_ - : /`, told apart by case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

/// The text isn't an event type, or not a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// Not a type.
    #[error(
        "must be names of ASCII letters, digits and _ - : / separated by dots, such as invoice.paid, of at most {MOST_BYTES} bytes"
    )]
    Type,
    /// Not a filter.
    #[error(
        "must be an event type such as invoice.paid, a group of them such as invoice.*, or * for all, of at most {MOST_BYTES} bytes"
    )]
    Filter,
}

impl EventType {
    /// Parses a type.
    ///
    /// # Errors
    /// It is empty, too long, has an empty name between dots, or another character.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if is_type(text) { Ok(Self(text.into())) } else { Err(EventTypeError::Type) }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The groups it is in, innermost first: `a.b` and `a` for `a.b.c`.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.0.rsplit_once('.'), |(rest, _)| rest.rsplit_once('.'))
            .map(|(group, _)| group)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which event types an endpoint wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventFilter {
    /// `*`: all.
    All,
    /// `invoice.*`: every type that begins with `invoice.`, however many names follow, and not `invoice` itself.
    Group(Arc<str>),
    /// One type.
    Type(EventType),
}

impl EventFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// It is neither a type, nor a group, nor `*`.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if text == "*" {
            return Ok(Self::All);
        }
        match text.strip_suffix(".*") {
            Some(group) if is_type(group) && text.len() <= MOST_BYTES => Ok(Self::Group(group.into())),
            None if is_type(text) => Ok(Self::Type(EventType(text.into()))),
            _ => Err(EventTypeError::Filter),
        }
    }
}

impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Group(group) => write!(f, "{group}.*"),
            Self::Type(kind) => kind.fmt(f),
        }
    }
}

fn is_type(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:/".contains(&byte);
    text.len() <= MOST_BYTES && text.split('.').all(|name| !name.is_empty() && name.bytes().all(of_name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_spellings_are_refused() {
        for odd in [
            "",
            ".",
            ".paid",
            "invoice.",
            "invoice..paid",
            "*",
            "invoice.*",
            "in*voice",
            "invoice paid",
            " invoice",
            "invoice\n",
            "rechnung.bezahlt\u{fc}",
            "a\0b",
            "a,b",
        ] {
            assert_eq!(EventType::parse(odd), Err(EventTypeError::Type), "{odd:?}");
        }
        for odd in ["", "**", "*.paid", "invoice*", ".*", "invoice.*.paid", "invoice..*", "invoice.* ", "*.*"]
        {
            assert_eq!(EventFilter::parse(odd), Err(EventTypeError::Filter), "{odd:?}");
        }
        assert!(EventType::parse(&"a".repeat(MOST_BYTES)).is_ok());
        assert!(EventType::parse(&"a".repeat(MOST_BYTES + 1)).is_err());
        assert!(EventFilter::parse(&format!("{}.*", "a".repeat(MOST_BYTES - 1))).is_err());
    }

    #[test]
    fn a_type_is_in_each_group_that_it_begins_with() {
        let groups = |text| EventType::parse(text).unwrap().groups().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(groups("com.example.invoice.paid"), ["com.example.invoice", "com.example", "com"]);
        assert_eq!(groups("invoice"), [""; 0]);
    }

    proptest! {
        #[test]
        fn filters_are_written_as_they_are_read(text in r"\*|[a-zA-Z0-9_:/-]{1,8}(\.[a-z]{1,5}){0,3}(\.\*)?") {
            prop_assert_eq!(EventFilter::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn nothing_makes_the_parsers_panic(text in "\\PC{0,300}") {
            drop((EventType::parse(&text), EventFilter::parse(&text)));
        }
    }
}
