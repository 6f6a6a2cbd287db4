//! Errors of a running queue.

use std::error::Error;

/// The queue could not carry out a request.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue has no room for the jobs. The publisher retries later.
    #[error("the queue is full")]
    Full,
    /// The jobs would not fit into an empty queue either.
    #[error("the event makes more jobs, or more bytes of bodies, than the queue can hold")]
    TooLarge,
    /// The queue takes no more jobs because the process is stopping.
    #[error("the queue is closed")]
    Closed,
    /// The queue's storage can't be reached or written. As far as the backend can tell, nothing has changed.
    #[error("{0}")]
    Unavailable(&'static str, #[source] Box<dyn Error + Send + Sync>),
}

impl QueueError {
    /// Returns the error for a task of the queue that panicked or was cancelled before it ended.
    ///
    /// The panic message is left out, because it may quote an event. The panic itself is logged where it happens.
    pub(in crate::queue) fn task_ended(action: &'static str) -> Self {
        Self::Unavailable(action, "the task panicked or was cancelled; see the log".into())
    }
}
