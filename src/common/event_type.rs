//! Event types such as `invoice.paid`, and the filters by which endpoints choose them.

use std::fmt;
use std::sync::Arc;

/// Maximum length of an event type, or of a filter, in bytes. The registry's index holds every type that has a
/// subscriber.
pub const MAX_TYPE_BYTES: usize = 256;

/// Event type: names of ASCII letters, digits and `_ - : /`, separated by dots. Case matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

/// Refusal of an event type or a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// The text isn't an event type.
    #[error(
        "must be names of ASCII letters, digits and _ - : / separated by dots, such as invoice.paid, of at most {MAX_TYPE_BYTES} bytes"
    )]
    Type,
    /// The text isn't a filter.
    #[error(
        "must be an event type such as invoice.paid, a group of them such as invoice.*, or * for all, of at most {MAX_TYPE_BYTES} bytes"
    )]
    Filter,
}

impl EventType {
    /// Parses an event type.
    ///
    /// # Errors
    /// The text is empty or too long, has an empty name, or holds another character.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if is_type(text) { Ok(Self(text.into())) } else { Err(EventTypeError::Type) }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the groups that the type belongs to, innermost first: `a.b` and `a` for `a.b.c`.
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

/// Filter for event types.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventFilter {
    /// `*`: all types.
    All,
    /// `invoice.*`: all types that begin with `invoice.`, with any number of further names. `invoice` itself doesn't
    /// match.
    Group(Arc<str>),
    /// A single type.
    Type(EventType),
}

impl EventFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// The text is neither a type, nor a group, nor `*`.
    pub fn parse(text: &str) -> Result<Self, EventTypeError> {
        if text == "*" {
            return Ok(Self::All);
        }
        match text.strip_suffix(".*") {
            Some(group) if is_type(group) && text.len() <= MAX_TYPE_BYTES => Ok(Self::Group(group.into())),
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
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:/".contains(&byte);
    text.len() <= MAX_TYPE_BYTES
        && text.split('.').all(|name| !name.is_empty() && name.bytes().all(is_allowed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_types_and_filters_are_refused() {
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
        assert!(EventType::parse(&"a".repeat(MAX_TYPE_BYTES)).is_ok());
        assert!(EventType::parse(&"a".repeat(MAX_TYPE_BYTES + 1)).is_err());
        assert!(EventFilter::parse(&format!("{}.*", "a".repeat(MAX_TYPE_BYTES - 1))).is_err());
    }

    #[test]
    fn a_type_belongs_to_each_group_that_it_begins_with() {
        let groups = |text| EventType::parse(text).unwrap().groups().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(groups("com.example.invoice.paid"), ["com.example.invoice", "com.example", "com"]);
        assert_eq!(groups("invoice"), [""; 0]);
    }

    proptest! {
        #[test]
        fn parsed_filters_display_as_the_same_text(text in r"\*|[a-zA-Z0-9_:/-]{1,8}(\.[a-z]{1,5}){0,3}(\.\*)?") {
            prop_assert_eq!(EventFilter::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn the_parsers_never_panic(text in "\\PC{0,300}") {
            drop((EventType::parse(&text), EventFilter::parse(&text)));
        }
    }
}
