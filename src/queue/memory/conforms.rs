//! The conformance tests, run against this backend.

use std::sync::Arc;

use super::MemoryQueue;
use crate::common::clock::Clock;
use crate::queue::conformance::{Harness, conformance};
use crate::queue::{Queue, QueueConfig};

struct Memory {
    queue: Arc<dyn Queue>,
    clock: Clock,
}

impl Harness for Memory {
    const DURABLE: bool = false;

    async fn start(config: QueueConfig) -> Self {
        let clock = Clock::start();
        Self { queue: Arc::new(MemoryQueue::new(config, clock)), clock }
    }

    fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    async fn reopen(&mut self) {
        unreachable!("a queue in memory ends with its process");
    }
}

conformance!(memory, super::Memory);
