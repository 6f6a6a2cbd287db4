//! Checks of a payload: its presence, its size and its depth.

use http::StatusCode;
use serde_json::value::RawValue;

use crate::server::problem::Problem;

/// Maximum nesting of objects and arrays. Common JSON parsers accept this much (it is `serde_json`'s limit).
const MAX_DEPTH: usize = 128;

/// Checks that there is a payload of at most `max_bytes`, nested at most [`MAX_DEPTH`] levels deep.
///
/// # Errors
/// 413 for a payload that is too large, 400 for the other cases.
pub(super) fn check(payload: Option<&RawValue>, max_bytes: usize) -> Result<&RawValue, Problem> {
    let payload = payload.ok_or_else(|| Problem::bad_request("'payload' is required"))?;
    let length = payload.get().len();
    if length > max_bytes {
        let detail = format!("'payload' has {length} bytes; at most {max_bytes} are accepted");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if is_too_deep(payload.get()) {
        return Err(Problem::bad_request(format!("'payload' is nested more than {MAX_DEPTH} levels deep")));
    }
    Ok(payload)
}

/// Whether valid JSON nests deeper than [`MAX_DEPTH`]. Nothing else bounds the depth, because the payload is parsed
/// without recursion. A customer's parser may overflow its stack.
fn is_too_deep(json: &str) -> bool {
    // Most payloads have fewer brackets in total, and counting them is much faster.
    if json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MAX_DEPTH {
        return false;
    }
    let mut depth = 0_usize;
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth = depth.saturating_add(1),
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, is_too_deep};

    #[test]
    fn depth_counts_brackets_outside_text() {
        let nested = |depth: usize| format!("{}{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
        assert!(!is_too_deep(&nested(MAX_DEPTH)));
        assert!(is_too_deep(&nested(MAX_DEPTH + 2)));
        assert!(!is_too_deep(&format!("[{}]", "[],".repeat(1_000))), "siblings don't add depth");
        assert!(!is_too_deep(&format!(r#""\"{}\\""#, "[".repeat(1_000))), "brackets inside text");
        assert!(is_too_deep(&format!(r#"["\\",{}"#, "[".repeat(1_000))), "brackets after text");
    }
}
