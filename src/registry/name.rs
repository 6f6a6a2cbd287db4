//! Names and descriptions that people choose, without characters that could deceive the reader of a terminal or a log.

use std::fmt;

use crate::common::id::TenantId;

/// Word that a tenant uses in place of its own id.
pub const ME: &str = "me";

/// Maximum length of a name or description in characters.
pub const MAX_NAME_CHARS: usize = 128;

/// Characters that a name can't have: control characters, line separators, direction marks, and invisible characters
/// except the joiners that scripts and emoji need.
pub const DECEPTIVE: [std::ops::RangeInclusive<char>; 12] = [
    '\0'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200b}',
    '\u{200e}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0001}'..='\u{e007f}',
];

fn is_deceptive(c: char) -> bool {
    DECEPTIVE.iter().any(|range| range.contains(&c))
}

/// A name or description without deceptive characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// The text can't be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty, too long, has white space at an end, or has deceptive characters.
    #[error(
        "must be 1 to {MAX_NAME_CHARS} characters, without white space at the ends, and without control characters, direction marks or invisible characters"
    )]
    Text,
    /// The text would refer to a tenant in another way.
    #[error("must not be `me` nor begin with `ten_`, which refer to a tenant in other ways")]
    Reserved,
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError::Text`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 || length > MAX_NAME_CHARS || text.trim() != text || text.chars().any(is_deceptive) {
            return Err(NameError::Text);
        }
        Ok(Self(text.into()))
    }

    /// Parses the name of a tenant, which must differ from `me` and from any id.
    ///
    /// # Errors
    /// [`NameError::Text`] or [`NameError::Reserved`].
    pub fn of_tenant(text: &str) -> Result<Self, NameError> {
        if text == ME || text.starts_with(TenantId::PREFIX) {
            return Err(NameError::Reserved);
        }
        Self::parse(text)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_of_any_script_and_not_deceptive() {
        for name in ["Acme", "Ünïcode & Söhne", "株式会社", "👩‍💻 GmbH", "a/b?c#d", "..", "O'Brien"]
        {
            assert_eq!(Name::of_tenant(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(MAX_NAME_CHARS + 1);
        for name in [
            "",
            " ",
            " a",
            "a ",
            "a\n",
            "a\0b",
            "a\u{1b}[31m",
            "a\u{85}",
            "\u{202e}cba",
            "\u{feff}a",
            "Ac\u{200b}me",
            "a\u{ad}b",
            "a\u{e0041}",
            &long,
        ] {
            assert_eq!(Name::of_tenant(name), Err(NameError::Text), "{name:?}");
        }
        assert!(Name::parse(&"ü".repeat(MAX_NAME_CHARS)).is_ok());
        for name in ["me", "ten_", "ten_00000000000000000000000000000000"] {
            assert_eq!(Name::of_tenant(name), Err(NameError::Reserved), "{name:?}");
        }
    }
}
