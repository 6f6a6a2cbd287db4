//! The conformance tests, run against this backend.

use std::sync::Arc;

use tempfile::TempDir;

use super::DiskQueue;
use crate::common::clock::Clock;
use crate::queue::conformance::{Harness, conformance};
use crate::queue::{Queue, QueueConfig};

struct Disk {
    /// `None` while the queue is being reopened.
    queue: Option<Arc<dyn Queue>>,
    clock: Clock,
    config: QueueConfig,
    folder: TempDir,
}

impl Disk {
    fn open(&mut self) {
        let path = self.folder.path().join("queue.db");
        self.clock = Clock::start();
        self.queue = Some(Arc::new(DiskQueue::open(&path, self.config.clone(), self.clock).unwrap()));
    }
}

impl Harness for Disk {
    const DURABLE: bool = true;

    async fn start(config: QueueConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Self { queue: None, clock: Clock::start(), config, folder };
        disk.open();
        disk
    }

    fn queue(&self) -> &Arc<dyn Queue> {
        self.queue.as_ref().expect("the queue is open")
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn reopen(&mut self) {
        // The old queue must be closed before the file is opened again, as when a process ends.
        self.queue = None;
        self.open();
    }
}

conformance!(disk, super::Disk);
