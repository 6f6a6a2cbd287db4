//! The scripts, each with what all of them begin with.

use redis::{Cmd, FromRedisValue};

use super::{Shared, unavailable};
use crate::common::redis::RedisScript;
use crate::queue::QueueError;
use crate::queue::redis::shards::Shard;

/// Puts a script together; its flags say what Redis may do with it.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        RedisScript::new(concat!("#!lua", $flags, "\n", include_str!("shard.lua"), "\n", include_str!($file)))
    };
}

/// See the files: each says what it takes and gives.
pub(super) struct Scripts {
    pub(super) push: RedisScript,
    pub(super) claim: RedisScript,
    pub(super) settle: RedisScript,
    pub(super) release: RedisScript,
    pub(super) replay: RedisScript,
    pub(super) purge: RedisScript,
    pub(super) deaths: RedisScript,
    pub(super) count_dead: RedisScript,
    pub(super) message: RedisScript,
    pub(super) depth: RedisScript,
    pub(super) queued: RedisScript,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            // The one that adds: refused where Redis has no memory left. The others go on then, since they lead to
            // less being held.
            push: script!("", "push.lua"),
            claim: script!(" flags=allow-oom", "claim.lua"),
            settle: script!(" flags=allow-oom", "settle.lua"),
            release: script!(" flags=allow-oom", "release.lua"),
            replay: script!(" flags=allow-oom", "replay.lua"),
            purge: script!(" flags=allow-oom", "purge.lua"),
            deaths: script!(" flags=no-writes", "deaths.lua"),
            count_dead: script!(" flags=no-writes", "count_dead.lua"),
            message: script!(" flags=no-writes", "message.lua"),
            depth: script!(" flags=no-writes", "depth.lua"),
            queued: script!(" flags=no-writes", "queued.lua"),
        }
    }
}

impl Shared {
    /// Calls a script on a shard.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &RedisScript,
        shard: &Shard,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, QueueError> {
        self.connection.call(script, &shard.tag, fill).await.map_err(unavailable)
    }

    /// Where a script publishes that something became claimable, and what.
    pub(super) fn wake_up<'c>(&self, command: &'c mut Cmd, shard: &Shard) -> &'c mut Cmd {
        command.arg(&self.channel).arg(format!("{}:{}", self.origin, shard.index))
    }
}
