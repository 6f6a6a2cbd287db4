//! Stand-in for the registry in Kafka, in builds without the `kafka` feature. None is ever opened.

use std::sync::Arc;

use super::error::{OpenError, StoreError};
use super::limits::Limits;
use super::record::Write;
use super::replica::Replica;
use super::shared_log::{Append, SharedLog};
use super::single_flight::Outcome;
use super::state::{Change, Position};
use crate::common::crypto::vault::Vault;
use crate::common::data_dir::DataDirError;
use crate::common::kafka::{KafkaConfig, NotBuiltIn};

/// The registry in Kafka, of which this build has none.
pub(super) enum KafkaStore {}

/// The follower of a registry in Kafka, of which this build has none.
pub(super) enum Follower {}

impl KafkaStore {
    /// Refuses to open the registry.
    #[expect(clippy::unused_async, reason = "the registry in Kafka is opened the same way")]
    pub(super) async fn open(
        _config: &KafkaConfig,
        _limits: Limits,
        _vault: impl FnOnce(bool) -> Result<Vault, DataDirError>,
    ) -> Result<Arc<Self>, OpenError> {
        Err(StoreError::Kafka { doing: "open the registry", source: NotBuiltIn.into() }.into())
    }

    pub(super) fn follow_in_background(&self) -> Result<Follower, StoreError> {
        match *self {}
    }
}

impl SharedLog for KafkaStore {
    const MAX_ATTEMPTS: u32 = 0;

    type Lease = ();

    fn replica(&self) -> &Replica {
        match *self {}
    }

    async fn follow(&self) -> Outcome {
        match *self {}
    }

    async fn lease(&self) {
        match *self {}
    }

    async fn renew(&self, (): &mut (), _attempt: u32) -> Outcome {
        match *self {}
    }

    async fn append(
        &self,
        (): &mut (),
        _at: &Position,
        _own: u64,
        _changes: Vec<Change>,
        _writes: &[Write],
    ) -> Append {
        match *self {}
    }
}
