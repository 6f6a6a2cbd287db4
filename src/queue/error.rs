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
