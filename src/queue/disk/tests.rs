use std::time::Duration;

use tempfile::TempDir;

use super::scheduler::WINDOW;
use super::*;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::job::Target;
use crate::common::retry::{Cause, CauseKind, EndpointState};
use crate::common::sqlite::SqliteError;
use crate::queue::dead::DeadFilter;
use crate::queue::tests::config;

/// A folder with the database of a queue.
struct TestFolder {
    folder: TempDir,
}

impl TestFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("queue.db")
    }

    fn open_with(&self, config: QueueConfig) -> DiskQueue {
        DiskQueue::open(&self.path(), config, Clock::start()).unwrap()
    }

    fn open(&self) -> DiskQueue {
        self.open_with(config(false))
    }

    /// Opens a second connection, to inspect or change the database behind the queue's back.
    fn sql(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.sql().query_row(&sql, [], |row| row.get(0)).unwrap()
    }
}

/// Returns a job of a lane in direct mode.
fn job(lane: &str) -> Job {
    let target = Target::Url(EndpointUrl::parse(&format!("https://example.com/{lane}")).unwrap());
    Job { lane: target.lane(), target, ..crate::queue::tests::job(lane) }
}

fn settlement(lease: Lease, verdict: Verdict) -> Settlement {
    Settlement { lease, verdict, attempt: None }
}

async fn settle(queue: &DiskQueue, lease: Lease, verdict: Verdict) {
    queue.settle(&[settlement(lease, verdict)]).await.unwrap();
}

async fn claim_one(queue: &DiskQueue) -> Lease {
    let claim = tokio::time::timeout(Duration::from_secs(10), queue.claim(1));
    claim.await.expect("a job is due").unwrap().remove(0)
}

#[tokio::test]
async fn only_unsettled_jobs_survive_a_restart() {
    let folder = TestFolder::new();
    let jobs: Vec<Job> = ["a", "a", "b", "c"].into_iter().map(job).collect();
    let mut left: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
    {
        let queue = folder.open();
        queue.push(jobs).await.unwrap();
        let done = claim_one(&queue).await;
        left.retain(|id| *id != done.job.id);
        settle(&queue, done, Verdict::Done).await;
        // Still leased when the process ends.
        claim_one(&queue).await;
    }
    let queue = folder.open();
    assert_eq!(queue.depth().await.unwrap().unsettled(), 3);
    let mut found = Vec::new();
    for _ in 0..3 {
        let lease = claim_one(&queue).await;
        assert_eq!((lease.attempt, &*lease.job.body), (1, &b"0123456789"[..]));
        found.push(lease.job.id);
        settle(&queue, lease, Verdict::Done).await;
    }
    left.sort();
    found.sort();
    assert_eq!(found, left);
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
    assert_eq!((folder.count("job"), folder.count("content"), folder.count("delivered")), (0, 0, 4));
}

#[tokio::test]
async fn a_backlog_is_loaded_in_parts_and_in_order() {
    for restart in [false, true] {
        let folder = TestFolder::new();
        let config = QueueConfig { max_jobs: 10_000, max_bytes: 1 << 30, ..config(true) };
        let mut queue = folder.open_with(config.clone());
        let jobs: Vec<Job> = (0..500).map(|_| job("a")).collect();
        let order: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
        queue.push(jobs).await.unwrap();
        if restart {
            drop(queue);
            queue = folder.open_with(config);
        }
        let mut seen = Vec::new();
        for number in 0..order.len() {
            let lease = claim_one(&queue).await;
            seen.push(lease.job.id);
            if number % 50 == 0 && lease.attempt == 1 {
                seen.pop();
                let at = after(queue.shared.now(), Duration::from_millis(5));
                settle(&queue, lease, Verdict::Retry { at, endpoint: EndpointState::Unknown }).await;
                let again = claim_one(&queue).await;
                assert_eq!(again.attempt, 2);
                seen.push(again.job.id);
                settle(&queue, again, Verdict::Done).await;
            } else {
                settle(&queue, lease, Verdict::Done).await;
            }
            assert!(queue.shared.lock().lanes.jobs().count() <= 2 * WINDOW + 1);
        }
        assert_eq!(seen, order, "restart: {restart}");
    }
}

#[tokio::test]
async fn failures_and_due_times_survive_a_restart() {
    let folder = TestFolder::new();
    let at = {
        let queue = folder.open();
        queue.push(vec![job("a")]).await.unwrap();
        let lease = claim_one(&queue).await;
        let at = after(queue.shared.now(), Duration::from_millis(700));
        settle(&queue, lease, Verdict::Retry { at, endpoint: EndpointState::Failed }).await;
        at
    };
    let queue = folder.open();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.ready, depth.delayed), (0, 1));
    let lease = claim_one(&queue).await;
    assert!(queue.shared.now() >= whole_micros(at), "the retry came before it was due");
    assert_eq!(lease.attempt, 2);
}

#[tokio::test]
async fn a_clock_set_back_delays_no_job_and_keeps_the_order() {
    let folder = TestFolder::new();
    let jobs: Vec<Job> = (0..3).map(|_| job("a")).collect();
    let order: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
    drop({
        let queue = folder.open_with(config(true));
        queue.push(jobs).await.unwrap();
        queue
    });
    // As if the clock had been an hour ahead when they were published.
    folder.sql().execute("UPDATE job SET due_at = due_at + 3600000000", []).unwrap();
    let queue = folder.open_with(config(true));
    queue.push(vec![job("a")]).await.unwrap();
    for id in order {
        let lease = claim_one(&queue).await;
        assert_eq!(lease.job.id, id);
        settle(&queue, lease, Verdict::Done).await;
    }
}

#[tokio::test]
async fn a_new_job_never_reuses_the_number_of_a_dead_letter() {
    let folder = TestFolder::new();
    {
        let queue = folder.open();
        queue.push(vec![job("a")]).await.unwrap();
        let lease = claim_one(&queue).await;
        settle(&queue, lease, Verdict::Dead { cause: Cause::Disabled }).await;
    }
    folder.sql().execute("DELETE FROM content", []).unwrap();
    let queue = folder.open();
    queue.push(vec![job("b")]).await.unwrap();
    assert_eq!(queue.purge(&DeadFilter::default(), 9).await.unwrap(), 1);
    assert_eq!(&*claim_one(&queue).await.job.body, b"0123456789");
}

#[tokio::test]
async fn a_released_lane_is_due_at_once_even_beyond_its_window() {
    let folder = TestFolder::new();
    let config = QueueConfig { max_jobs: 10_000, lane_in_flight: 10_000, in_flight: 10_000, ..config(false) };
    let queue = folder.open_with(QueueConfig { max_bytes: 1 << 30, ..config });
    queue.push((0..300).map(|_| job("a")).collect()).await.unwrap();
    let far = after(queue.shared.now(), Duration::from_secs(3_600));
    let mut failed = 0;
    while failed < 300 {
        for lease in queue.claim(64).await.unwrap() {
            let verdict = Verdict::Retry { at: far, endpoint: EndpointState::Unknown };
            settle(&queue, lease, verdict).await;
            failed += 1;
        }
    }
    assert_eq!(queue.depth().await.unwrap().delayed, 300);
    assert!(tokio::time::timeout(Duration::from_millis(50), queue.claim(1)).await.is_err());
    queue.release(&[job("a").lane]).await.unwrap();
    let mut released = 0;
    while released < 300 {
        let leases = tokio::time::timeout(Duration::from_secs(10), queue.claim(64)).await.unwrap().unwrap();
        for lease in leases {
            settle(&queue, lease, Verdict::Done).await;
            released += 1;
        }
    }
    assert_eq!(queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn a_damaged_job_becomes_a_dead_letter_and_blocks_no_other() {
    let damages = [
        "UPDATE content SET body = x'00' WHERE seq = 1",
        "UPDATE content SET record = 'not JSON' WHERE seq = 1",
        "DELETE FROM content WHERE seq = 1",
    ];
    for damage in damages {
        let folder = TestFolder::new();
        drop({
            let queue = folder.open();
            queue.push(vec![job("a"), job("a"), job("b")]).await.unwrap();
            queue
        });
        assert_eq!(folder.sql().execute(damage, []).unwrap(), 1);
        let queue = folder.open();
        for _ in 0..2 {
            let lease = claim_one(&queue).await;
            settle(&queue, lease, Verdict::Done).await;
        }
        while queue.depth().await.unwrap().dead == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.depth().await.unwrap(), Depth { dead: 1, ..Depth::default() }, "{damage}");
        let letters = queue.dead_letters(&DeadFilter::default(), None, 9).await.unwrap().letters;
        assert_eq!(letters[0].cause, CauseKind::Damaged);
        let letter = queue.dead_letter(letters[0].id).await.unwrap().unwrap();
        assert_eq!(letter.body, None, "{damage}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_until_there_is_room() {
    let folder = TestFolder::new();
    let queue = folder.open_with(QueueConfig { max_jobs: 100_000, max_bytes: 1 << 40, ..config(false) });
    queue.push(vec![job("a")]).await.unwrap();
    // Imitates a full file system: the database may not grow.
    queue.requests.send(Request::LimitPages(60)).unwrap();
    let large = || Job { body: vec![1; 100_000].into(), ..job("b") };
    let mut taken = 1;
    let error = loop {
        match queue.push(vec![large()]).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, QueueError::Unavailable(..)), "{error:?}");
    assert_eq!(queue.depth().await.unwrap().unsettled(), taken, "refused jobs do not count");
    // Stored jobs are still delivered.
    let lease = claim_one(&queue).await;
    settle(&queue, lease, Verdict::Done).await;
    queue.requests.send(Request::LimitPages(1 << 30)).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while queue.push(vec![large()]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the queue accepts jobs again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(queue);
    let integrity: String = folder.sql().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    assert_eq!(folder.count("job"), taken);
}

#[tokio::test]
async fn the_file_shrinks_once_a_backlog_has_drained() {
    let folder = TestFolder::new();
    let queue = folder.open_with(QueueConfig { max_jobs: 100_000, max_bytes: 1 << 40, ..config(false) });
    let large = |lane: usize| Job { body: vec![1; 200_000].into(), ..job(&lane.to_string()) };
    for lane in 0..20 {
        queue.push((0..10).map(|_| large(lane)).collect()).await.unwrap();
    }
    let pages = |name: &str| folder.sql().pragma_query_value(None, name, |row| row.get::<_, u64>(0)).unwrap();
    let full = pages("page_count");
    assert!(full * 4_096 > 200 * 200_000);
    let mut left = 200;
    while left > 0 {
        for lease in queue.claim(64).await.unwrap() {
            settle(&queue, lease, Verdict::Done).await;
            left -= 1;
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while pages("page_count") > full / 2 {
        assert!(tokio::time::Instant::now() < deadline, "{} of {full} pages", pages("page_count"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_or_another_program_is_refused() {
    let folder = TestFolder::new();
    drop(folder.open());
    folder.sql().pragma_update(None, "user_version", 99).unwrap();
    let open = || DiskQueue::open(&folder.path(), config(false), Clock::start()).map(|_| ());
    assert!(matches!(open(), Err(DiskError::Sqlite(SqliteError::Newer { found: 99, .. }))));
    folder.sql().pragma_update(None, "application_id", 7).unwrap();
    assert!(matches!(open(), Err(DiskError::Sqlite(SqliteError::NotOurs(_)))));
}

/// Opens a database that the first version wrote. It has waiting jobs, a retry, an ordered lane, a dead letter and a
/// delivered message.
#[tokio::test]
async fn the_golden_database_opens() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/queue/v1/queue.db");
    let folder = TestFolder::new();
    if std::env::var_os("WHK_MAKE_GOLDEN").is_some() {
        make_golden(&folder).await;
        folder.sql().execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE").unwrap();
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::copy(folder.path(), &golden).unwrap();
    }
    std::fs::copy(&golden, folder.path()).unwrap();
    let queue = folder.open();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.unsettled(), depth.dead), (4, 1));
    let letters = queue.dead_letters(&DeadFilter::default(), None, 9).await.unwrap().letters;
    assert_eq!((letters[0].cause, &*letters[0].detail), (CauseKind::Disabled, "the endpoint is disabled"));
    let record = queue.message(letters[0].id).await.unwrap().unwrap();
    assert_eq!(record.attempts[0].status, Some(500));
    let delivered: Vec<u8> =
        folder.sql().query_row("SELECT id FROM delivered", [], |row| row.get(0)).unwrap();
    let delivered = MessageId::from_bytes(delivered.try_into().unwrap());
    assert_eq!(queue.message(delivered).await.unwrap().unwrap().attempts[0].status, Some(200));
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let lease = claim_one(&queue).await;
        attempts.push(lease.attempt);
        assert_eq!(&*lease.job.body, b"0123456789");
        settle(&queue, lease, Verdict::Done).await;
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 1, 2]);
}

async fn make_golden(folder: &TestFolder) {
    use crate::common::attempt::Attempt;
    use crate::common::id::{EndpointId, TenantId};
    let queue = folder.open();
    let (tenant, endpoint) = (TenantId::new(), EndpointId::new());
    let target = Target::Endpoint(tenant, endpoint);
    let of_tenant = || Job {
        tenant: tenant.to_string().into(),
        lane: target.lane(),
        target: target.clone(),
        ordered: true,
        ..job("")
    };
    let attempt =
        |status| Attempt { at: jiff::Timestamp::now(), latency_ms: 12, status: Some(status), error: None };
    let settle = async |verdict, status| {
        let lease = claim_one(&queue).await;
        let settled = Settlement { lease, verdict, attempt: Some(attempt(status)) };
        queue.settle(&[settled]).await.unwrap();
    };
    queue.push(vec![job("done")]).await.unwrap();
    settle(Verdict::Done, 200).await;
    queue.push(vec![job("dead")]).await.unwrap();
    settle(Verdict::Dead { cause: Cause::Disabled }, 500).await;
    queue.push(vec![job("again")]).await.unwrap();
    settle(Verdict::Retry { at: queue.shared.now(), endpoint: EndpointState::Unknown }, 503).await;
    queue.push(vec![of_tenant(), of_tenant(), job("new")]).await.unwrap();
}
