//! Lua scripts.

use std::borrow::Cow;

use sha1::{Digest as _, Sha1};

/// A Lua script, with the hash by which Redis identifies it.
#[derive(Debug)]
pub struct RedisScript {
    pub(super) text: Cow<'static, str>,
    pub(super) hash: String,
}

impl RedisScript {
    /// Creates a script. It is loaded into Redis by its first call.
    #[must_use]
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let hash = Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, hash }
    }
}
