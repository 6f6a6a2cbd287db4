//! The registry as records for Redis and Kafka. A record is a key and one line of JSON.
//!
//! ```text
//! tenant/ten_…              {"v":1,"name":"Acme","queued_jobs":500,"created_at":…,"version":1}
//! api_key/provider/key_…    {"v":1,"hash":"<SHA-256 in hex>","hint":"whk_provider_…","created_at":…}
//! api_key/ten_…/key_…       the same for a tenant's key
//! public_key/ten_…/<kid>    {"v":1,"pem":"…","bits":4096,"state":"active","created_at":…,"changed_at":…}
//! endpoint/ten_…/ep_…       {"v":1,"events":["invoice.*"],"content_type":"application/jose+json","envelope":"jwe",
//!                            "ordered":false,"sealed":"<base64; see sealed.rs>","created_at":…,"version":1}
//! ```
//!
//! Times are milliseconds since 1970. Fields without a value are left out. A deletion is the key without a value. The
//! deletion of a tenant also writes deletions of its keys and endpoints.

mod format;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;

pub(super) use self::format::Write;
pub(super) use self::read::{put_in_order, read, read_all};
pub(super) use self::write::writes;

/// Merges the writes of a change into all records.
pub(super) fn merge(records: &mut HashMap<String, String>, writes: Vec<Write>) {
    for (key, value) in writes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
}
