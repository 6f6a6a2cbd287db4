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

struct Home {
    folder: TempDir,
}

impl Home {
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

    /// Looks into the database, or changes it, behind the queue's back.
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

/// A job for a URL of its own, which is its lane.
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
    claim.await.expect("a job").unwrap().remove(0)
}

#[tokio::test]
async fn what_was_not_settled_is_there_after_a_restart_and_what_was_is_not() {
    let home = Home::new();
    let jobs: Vec<Job> = ["a", "a", "b", "c"].into_iter().map(job).collect();
    let mut left: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
    {
        let queue = home.open();
        queue.push(jobs).await.unwrap();
        let done = claim_one(&queue).await;
        left.retain(|id| *id != done.job.id);
        settle(&queue, done, Verdict::Done).await;
        // Out when the process ends.
        claim_one(&queue).await;
    }
    let queue = home.open();
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
    assert_eq!((home.count("job"), home.count("content"), home.count("delivered")), (0, 0, 4));
}

#[tokio::test]
async fn a_backlog_is_read_as_its_turn_comes_and_in_order() {
    for restart in [false, true] {
        let home = Home::new();
        let config = QueueConfig { max_jobs: 10_000, max_bytes: 1 << 30, ..config(true) };
        let mut queue = home.open_with(config.clone());
        let jobs: Vec<Job> = (0..500).map(|_| job("a")).collect();
        let order: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
        queue.push(jobs).await.unwrap();
        if restart {
            drop(queue);
            queue = home.open_with(config);
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
async fn failures_and_due_times_outlive_the_process() {
    let home = Home::new();
    let at = {
        let queue = home.open();
        queue.push(vec![job("a")]).await.unwrap();
        let lease = claim_one(&queue).await;
        let at = after(queue.shared.now(), Duration::from_millis(700));
        settle(&queue, lease, Verdict::Retry { at, endpoint: EndpointState::Failed }).await;
        at
    };
    let queue = home.open();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.ready, depth.delayed), (0, 1));
    let lease = claim_one(&queue).await;
    assert!(queue.shared.now() >= whole_micros(at), "it came before it was due");
    assert_eq!(lease.attempt, 2);
}

#[tokio::test]
async fn a_clock_that_went_back_delays_nothing_and_keeps_order() {
    let home = Home::new();
    let jobs: Vec<Job> = (0..3).map(|_| job("a")).collect();
    let order: Vec<MessageId> = jobs.iter().map(|job| job.id).collect();
    drop({
        let queue = home.open_with(config(true));
        queue.push(jobs).await.unwrap();
        queue
    });
    // As if they had been published an hour from now.
    home.sql().execute("UPDATE job SET due_at = due_at + 3600000000", []).unwrap();
    let queue = home.open_with(config(true));
    queue.push(vec![job("a")]).await.unwrap();
    for id in order {
        let lease = claim_one(&queue).await;
        assert_eq!(lease.job.id, id);
        settle(&queue, lease, Verdict::Done).await;
    }
}

#[tokio::test]
async fn a_new_job_never_has_the_place_of_a_dead_one() {
    let home = Home::new();
    {
        let queue = home.open();
        queue.push(vec![job("a")]).await.unwrap();
        let lease = claim_one(&queue).await;
        settle(&queue, lease, Verdict::Dead { cause: Cause::Disabled }).await;
    }
    home.sql().execute("DELETE FROM content", []).unwrap();
    let queue = home.open();
    queue.push(vec![job("b")]).await.unwrap();
    assert_eq!(queue.purge(&DeadFilter::default(), 9).await.unwrap(), 1);
    assert_eq!(&*claim_one(&queue).await.job.body, b"0123456789");
}

#[tokio::test]
async fn a_released_lane_is_due_at_once_also_what_is_only_on_disk() {
    let home = Home::new();
    let config = QueueConfig { max_jobs: 10_000, lane_in_flight: 10_000, in_flight: 10_000, ..config(false) };
    let queue = home.open_with(QueueConfig { max_bytes: 1 << 30, ..config });
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
async fn a_damaged_job_is_set_aside_and_the_others_go_on() {
    let damages = [
        "UPDATE content SET body = x'00' WHERE seq = 1",
        "UPDATE content SET record = 'not JSON' WHERE seq = 1",
        "DELETE FROM content WHERE seq = 1",
    ];
    for damage in damages {
        let home = Home::new();
        drop({
            let queue = home.open();
            queue.push(vec![job("a"), job("a"), job("b")]).await.unwrap();
            queue
        });
        assert_eq!(home.sql().execute(damage, []).unwrap(), 1);
        let queue = home.open();
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
        let found = queue.dead_letter(letters[0].id).await.unwrap().unwrap();
        assert_eq!(found.body, None, "{damage}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_and_takes_them_again_when_there_is_room() {
    let home = Home::new();
    let queue = home.open_with(QueueConfig { max_jobs: 100_000, max_bytes: 1 << 40, ..config(false) });
    queue.push(vec![job("a")]).await.unwrap();
    // As if the file system had no more room: the database may not grow.
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
    assert_eq!(queue.depth().await.unwrap().unsettled(), taken, "what was refused isn't counted");
    // What is there is still delivered.
    let lease = claim_one(&queue).await;
    settle(&queue, lease, Verdict::Done).await;
    queue.requests.send(Request::LimitPages(1 << 30)).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while queue.push(vec![large()]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "it never recovers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(queue);
    let integrity: String = home.sql().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    assert_eq!(home.count("job"), taken);
}

#[tokio::test]
async fn space_is_given_back_when_a_backlog_has_drained() {
    let home = Home::new();
    let queue = home.open_with(QueueConfig { max_jobs: 100_000, max_bytes: 1 << 40, ..config(false) });
    let large = |lane: usize| Job { body: vec![1; 200_000].into(), ..job(&lane.to_string()) };
    for lane in 0..20 {
        queue.push((0..10).map(|_| large(lane)).collect()).await.unwrap();
    }
    let pages = |name: &str| home.sql().pragma_query_value(None, name, |row| row.get::<_, u64>(0)).unwrap();
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
async fn what_a_newer_version_or_another_program_wrote_is_left_alone() {
    let home = Home::new();
    drop(home.open());
    home.sql().pragma_update(None, "user_version", 99).unwrap();
    let open = || DiskQueue::open(&home.path(), config(false), Clock::start()).map(|_| ());
    assert!(matches!(open(), Err(DiskError::Sqlite(SqliteError::Newer { found: 99, .. }))));
    home.sql().pragma_update(None, "application_id", 7).unwrap();
    assert!(matches!(open(), Err(DiskError::Sqlite(SqliteError::NotOurs(_)))));
}

/// A database as the first version wrote it: jobs that wait, one to be retried, an ordered lane, a dead letter, a
/// delivered message.
#[tokio::test]
async fn the_golden_database_opens() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/queue/v1/queue.db");
    let home = Home::new();
    if std::env::var_os("WHK_MAKE_GOLDEN").is_some() {
        make_golden(&home).await;
        home.sql().execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE").unwrap();
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::copy(home.path(), &golden).unwrap();
    }
    std::fs::copy(&golden, home.path()).unwrap();
    let queue = home.open();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.unsettled(), depth.dead), (4, 1));
    let letters = queue.dead_letters(&DeadFilter::default(), None, 9).await.unwrap().letters;
    assert_eq!((letters[0].cause, &*letters[0].detail), (CauseKind::Disabled, "the endpoint is disabled"));
    let record = queue.message(letters[0].id).await.unwrap().unwrap();
    assert_eq!(record.attempts[0].status, Some(500));
    let delivered: Vec<u8> = home.sql().query_row("SELECT id FROM delivered", [], |row| row.get(0)).unwrap();
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

async fn make_golden(home: &Home) {
    use crate::common::attempt::Attempt;
    use crate::common::id::{EndpointId, TenantId};
    let queue = home.open();
    let (tenant, endpoint) = (TenantId::new(), EndpointId::new());
    let target = Target::Endpoint(tenant, endpoint);
    let of_tenant = || Job {
        tenant: tenant.to_string().into(),
        lane: target.lane(),
        target: target.clone(),
        ordered: true,
        ..job("")
    };
    let made =
        |status| Attempt { at: jiff::Timestamp::now(), latency_ms: 12, status: Some(status), error: None };
    let settle = async |verdict, status| {
        let lease = claim_one(&queue).await;
        let settled = Settlement { lease, verdict, attempt: Some(made(status)) };
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
