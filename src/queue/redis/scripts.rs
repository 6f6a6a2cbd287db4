//! The Lua scripts. Each consists of the constants that Rust defines, `shard.lua`, and a file of its own.

use crate::common::attempt::KEPT_ATTEMPTS;
use crate::common::redis::RedisScript;
use crate::queue::lanes::{FAILING_SLOTS_DIVISOR, FREE_SLOTS_PER_LEASE, HEALTHY_SLOTS_DIVISOR};
use crate::queue::throttle::{BREAKER_FAILURES, INITIAL_CONCURRENCY};

/// The scripts. Each file documents its arguments and its result.
pub(super) struct Scripts {
    pub(super) push: RedisScript,
    pub(super) claim: RedisScript,
    pub(super) settle: RedisScript,
    pub(super) release: RedisScript,
    pub(super) replay: RedisScript,
    pub(super) purge: RedisScript,
    pub(super) list_dead: RedisScript,
    pub(super) count_dead: RedisScript,
    pub(super) message: RedisScript,
    pub(super) depth: RedisScript,
    pub(super) tenant_usage: RedisScript,
}

impl Scripts {
    pub(super) fn new() -> Self {
        // Only push adds data, so Redis refuses it when memory is short. The other scripts free memory in the end, so
        // Redis may run them then.
        let writes = |body| script(" flags=allow-oom", body);
        let reads = |body| script(" flags=no-writes", body);
        Self {
            push: script("", include_str!("push.lua")),
            claim: writes(include_str!("claim.lua")),
            settle: writes(include_str!("settle.lua")),
            release: writes(include_str!("release.lua")),
            replay: writes(include_str!("replay.lua")),
            purge: writes(include_str!("purge.lua")),
            list_dead: reads(include_str!("list_dead.lua")),
            count_dead: reads(include_str!("count_dead.lua")),
            message: reads(include_str!("message.lua")),
            depth: reads(include_str!("depth.lua")),
            tenant_usage: reads(include_str!("tenant_usage.lua")),
        }
    }
}

/// Assembles a script. `flags` say what Redis lets it do.
fn script(flags: &str, body: &str) -> RedisScript {
    RedisScript::new(format!(
        "#!lua{flags}\n\
         local INITIAL_CONCURRENCY, BREAKER_FAILURES = {INITIAL_CONCURRENCY}, {BREAKER_FAILURES}\n\
         local HEALTHY_SLOTS_DIVISOR, FAILING_SLOTS_DIVISOR = {HEALTHY_SLOTS_DIVISOR}, {FAILING_SLOTS_DIVISOR}\n\
         local FREE_SLOTS_PER_LEASE, KEPT_ATTEMPTS = {FREE_SLOTS_PER_LEASE}, {KEPT_ATTEMPTS}\n\
         {}\n{body}",
        include_str!("shard.lua")
    ))
}
