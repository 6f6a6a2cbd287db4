//! Supervised tasks: a panic in one is logged and counted.
//!
//! Tokio catches a panic at the edge of the task. Unless the handle of the task is awaited, the panic goes unnoticed.
//! A task that is started by [`spawn`], or wrapped in [`supervised`], reports its panic itself: it is logged under the
//! task's name and counted in the metric `whk_task_panics_total`.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::LazyLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::task::JoinHandle;

/// Panics of this process by task. Process-wide, since tasks also start in modules that know no metrics, such as the
/// registry's followers.
static PANICS: LazyLock<TaskPanics> = LazyLock::new(Family::default);

/// Counters of panics by task.
pub(super) type TaskPanics = Family<TaskLabels, Counter>;

/// Labels of the panic counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TaskLabels {
    task: &'static str,
}

/// Returns the counters of panics, to be registered with the other metrics.
pub(super) fn panic_counters() -> TaskPanics {
    PANICS.clone()
}

/// Returns the number of panics of the task called `task` since the process started.
#[must_use]
pub fn panics_of(task: &'static str) -> u64 {
    PANICS.get(&TaskLabels { task }).map_or(0, |counter| counter.get())
}

/// Spawns `future` as a task called `name` on the current runtime. A panic in it is logged and counted.
///
/// The handle still returns the [`JoinError`](tokio::task::JoinError) of a panic, for callers that act on it.
/// `name` is a label of the metric. It is written in snake case and doesn't vary from call to call.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(supervised(name, future))
}

/// Wraps `future` so that a panic in it is logged and counted under `name`. For tasks that are spawned in a
/// [`JoinSet`](tokio::task::JoinSet) or a [`TaskTracker`](tokio_util::task::TaskTracker).
///
/// The panic goes on after it is reported.
pub async fn supervised<F: Future>(name: &'static str, future: F) -> F::Output {
    let _guard = PanicGuard { task: name };
    future.await
}

/// Reports a panic when the panic drops it.
struct PanicGuard {
    task: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report_panic(self.task);
        }
    }
}

/// Logs and counts a panic of the task called `task`. For tasks that clean up in a drop guard of their own.
pub fn report_panic(task: &'static str) {
    PANICS.get_or_create(&TaskLabels { task }).inc();
    tracing::error!(task, "a task panicked; the place is logged above");
}

/// Installs a panic hook that logs where a panic happened, on whatever thread.
///
/// The message is logged if it is a literal of the source code. A formatted one is withheld, because it may quote an
/// event: slicing a string at a wrong index, for example, panics with the string in its message. With
/// `RUST_BACKTRACE=1` the hook that was installed before runs as well, and prints the message and a backtrace.
pub fn log_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log_panic(panic);
        if Backtrace::capture().status() == BacktraceStatus::Captured {
            previous(panic);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let reason = literal_message(panic.payload())
        .unwrap_or("withheld, because it may quote an event; RUST_BACKTRACE=1 prints it");
    tracing::error!(%location, thread, reason, "panicked");
}

/// Returns the message of a panic if it is a literal, which can hold no data.
fn literal_message(payload: &(dyn Any + Send)) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_under_the_name_of_its_task() {
        let panicked = spawn("test_panic", async { panic!("on purpose") }).await;
        assert!(panicked.unwrap_err().is_panic());
        assert_eq!(panics_of("test_panic"), 1);
    }

    #[tokio::test]
    async fn a_task_that_ends_or_is_aborted_is_not_counted() {
        assert_eq!(spawn("test_end", async { 7 }).await.unwrap(), 7);
        let endless = spawn("test_end", std::future::pending::<()>());
        tokio::task::yield_now().await;
        endless.abort();
        assert!(endless.await.unwrap_err().is_cancelled());
        assert_eq!(panics_of("test_end"), 0);
    }

    #[test]
    fn a_formatted_message_is_withheld() {
        let literal = std::panic::catch_unwind(|| panic!("a literal")).unwrap_err();
        assert_eq!(literal_message(&*literal), Some("a literal"));
        let payload = "payload".to_owned();
        let formatted = std::panic::catch_unwind(|| panic!("bad {payload}")).unwrap_err();
        assert_eq!(literal_message(&*formatted), None);
    }
}
