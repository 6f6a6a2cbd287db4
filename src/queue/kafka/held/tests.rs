use bytes::Bytes;

use super::*;
use crate::common::retry::{Cause, EndpointState, Failure};
use crate::queue::tests;

const WINDOW: Window = Window { jobs: 100, bytes: 1_000_000 };

/// A consumer that has partition 0, from the beginning.
struct Consumer {
    held: Held,
    now: Timestamp,
    next: [i64; 2],
}

impl Consumer {
    fn new(ordered: bool) -> Self {
        let mut held = Held::new(tests::config(ordered), WINDOW);
        held.assign(0, Some(&start()), Some(&start()), 0);
        Self { held, now: Timestamp::UNIX_EPOCH, next: [0, 0] }
    }

    fn read(&mut self, log: Log, job: Job) -> Option<Aside> {
        self.read_again(log, job, Past::default())
    }

    #[expect(clippy::arithmetic_side_effects, reason = "tests, though in functions of their own")]
    fn read_again(&mut self, log: Log, job: Job, past: Past) -> Option<Aside> {
        let next = &mut self.next[log as usize];
        let offset = *next;
        *next += 1;
        self.held.read((log, 0, offset), job, past, self.now)
    }

    fn claim(&mut self) -> Lease {
        let mut claimed = self.held.claim(1, self.now);
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    fn settle(&mut self, lease: Lease, verdict: Verdict) {
        self.held.settle(&Settlement { lease, verdict, attempt: None }, false, self.now);
    }

    fn committed(&mut self, log: Log) -> i64 {
        let progress = self.held.progress();
        let of_log = progress.into_iter().find(|(_, of, _)| *of == log);
        of_log.map_or(-1, |(_, _, progress)| progress.offset)
    }

    fn wait(&mut self, seconds: u64) {
        self.now = after(self.now, Duration::from_secs(seconds));
    }
}

fn start() -> Progress {
    Progress { offset: 0, metadata: String::new() }
}

fn job(lane: &str) -> Job {
    tests::job(lane)
}

fn retry(at: Timestamp) -> Verdict {
    Verdict::Retry { at, endpoint: EndpointState::Failed }
}

#[test]
fn what_is_settled_moves_the_offset_and_what_is_not_holds_it() {
    let mut consumer = Consumer::new(false);
    for lane in ["a", "b", "c"] {
        assert!(consumer.read(Log::Events, job(lane)).is_none());
    }
    assert_eq!(consumer.committed(Log::Events), 0);
    let (first, second) = (consumer.claim(), consumer.claim());
    consumer.settle(second, Verdict::Done);
    assert_eq!(consumer.held.progress()[0].2, Progress { offset: 0, metadata: "1:1,1".into() });
    consumer.settle(first, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 2);
    let third = consumer.claim();
    let soon = after(consumer.now, Duration::from_secs(1));
    consumer.settle(third, retry(soon));
    assert_eq!(consumer.held.depth(consumer.now).delayed, 1);
    consumer.wait(1);
    let third = consumer.claim();
    assert_eq!(third.attempt, 2);
    consumer.settle(third, Verdict::Dropped);
    assert_eq!(consumer.committed(Log::Events), 3);
    assert_eq!(consumer.held.bytes(), 0);
}

#[test]
fn far_retries_and_the_dead_are_written_before_they_are_let_go_of() {
    let mut consumer = Consumer::new(false);
    (0..2).for_each(|_| drop(consumer.read(Log::Events, job("a"))));
    let lease = consumer.claim();
    let hour = after(consumer.now, Duration::from_secs(3_600));
    let settlement = Settlement { lease, verdict: retry(hour), attempt: None };
    let Some(Rest::Later(aside)) = consumer.held.rest_of(&settlement, consumer.now) else { panic!() };
    assert_eq!((aside.past.due(), aside.past.failures), (Some(hour), 1));
    assert_eq!(consumer.committed(Log::Events), 0, "not before it is written");
    consumer.held.settle(&settlement, true, consumer.now);
    assert_eq!(consumer.committed(Log::Events), 1);
    let lease = consumer.claim();
    let cause = Cause::Exhausted(Failure::TimedOut);
    let settlement = Settlement { lease, verdict: Verdict::Dead { cause }, attempt: None };
    assert!(matches!(consumer.held.rest_of(&settlement, consumer.now), Some(Rest::Dead(..))));
    consumer.held.settle(&settlement, true, consumer.now);
    assert_eq!(consumer.committed(Log::Events), 2);
    // Read again from events.retry, it waits for its time and has its past.
    assert!(consumer.read_again(Log::Retry, job("a"), aside.past).is_none());
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    consumer.wait(3_600);
    assert_eq!(consumer.claim().attempt, 2);
}

#[test]
fn in_a_lane_that_keeps_order_a_far_retry_is_waited_for() {
    let mut consumer = Consumer::new(true);
    (0..2).for_each(|_| drop(consumer.read(Log::Events, job("a"))));
    let lease = consumer.claim();
    let hour = after(consumer.now, Duration::from_secs(3_600));
    let settlement = Settlement { lease, verdict: retry(hour), attempt: None };
    assert!(consumer.held.rest_of(&settlement, consumer.now).is_none());
    consumer.held.settle(&settlement, false, consumer.now);
    assert!(consumer.held.claim(1, consumer.now).is_empty());
}

#[test]
fn a_job_that_is_held_is_not_held_twice() {
    let mut consumer = Consumer::new(false);
    let published = job("a");
    drop(consumer.read(Log::Events, published.clone()));
    drop(consumer.read(Log::Events, published.clone()));
    let lease = consumer.claim();
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 2);
    // What comes from events.retry is a job of its own: the original may be let go of at any moment.
    drop(consumer.read(Log::Events, published.clone()));
    drop(consumer.read(Log::Retry, published));
    assert_eq!(consumer.held.claim(9, consumer.now).len(), 2);
}

#[test]
fn a_lane_that_stands_still_makes_room() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| drop(consumer.read(Log::Events, job("hangs"))));
    let hanging = consumer.claim();
    drop(consumer.read(Log::Events, job("well")));
    assert!(consumer.held.crowding(consumer.now).is_empty(), "it may answer yet");
    consumer.wait(6);
    let well = consumer.claim();
    consumer.settle(well, Verdict::Done);
    let aside = consumer.held.crowding(consumer.now);
    assert_eq!(aside.len(), 59 - 25, "a quarter of the window stays");
    assert!(aside.iter().all(|aside| aside.entry.job.lane == hanging.job.lane));
    assert_eq!(consumer.held.busy(&[0]), 1 + 34);
    for aside in &aside {
        consumer.held.written(aside.entry.place, Some(&aside.entry.job));
    }
    assert_eq!(consumer.held.busy(&[0]), 1);
    assert_eq!(consumer.committed(Log::Events), 0, "what it leased holds the offset still");
    assert!(consumer.held.crowding(consumer.now).is_empty());
}

#[test]
fn a_lane_that_does_well_has_time_for_its_backlog() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| drop(consumer.read(Log::Events, job("slow"))));
    let first = consumer.claim();
    consumer.settle(first, Verdict::Done);
    let _leased = consumer.held.claim(9, consumer.now);
    consumer.wait(6);
    assert!(consumer.held.crowding(consumer.now).is_empty());
    consumer.wait(30);
    assert_eq!(consumer.held.crowding(consumer.now).len(), 57 - 25);
}

#[test]
fn what_is_read_again_is_held_for_a_while_before_it_makes_room_again() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| drop(consumer.read(Log::Retry, job("hangs"))));
    let _hanging = consumer.claim();
    consumer.wait(6);
    assert!(consumer.held.crowding(consumer.now).is_empty());
    consumer.wait(30);
    assert_eq!(consumer.held.crowding(consumer.now).len(), 34);
}

#[test]
fn a_lane_that_keeps_order_is_put_aside_in_order_and_what_comes_follows() {
    let mut consumer = Consumer::new(true);
    let jobs: Vec<Job> = (0..60).map(|_| job("hangs")).collect();
    for job in &jobs {
        assert!(consumer.read(Log::Events, job.clone()).is_none());
    }
    let hanging = consumer.claim();
    consumer.wait(6);
    let mut in_retry = consumer.held.crowding(consumer.now);
    assert_eq!(in_retry.len(), 59 - 25);
    let late = job("hangs");
    in_retry.push(consumer.read(Log::Events, late.clone()).expect("it follows the others of its lane"));
    assert!(consumer.read(Log::Events, job("other")).is_none());
    for aside in &in_retry {
        consumer.held.written(aside.entry.place, Some(&aside.entry.job));
    }
    for aside in in_retry {
        let job = (*aside.entry.job).clone();
        assert!(consumer.read_again(Log::Retry, job, aside.past).is_none());
    }
    let last = job("hangs");
    assert!(consumer.read(Log::Events, last.clone()).is_none(), "all that was aside is known again");
    consumer.settle(hanging, Verdict::Done);
    let mut order = vec![jobs[0].id];
    while let Some(lease) = consumer.held.claim(1, consumer.now).pop() {
        if lease.job.lane == jobs[0].lane {
            order.push(lease.job.id);
        }
        consumer.settle(lease, Verdict::Done);
    }
    let expected: Vec<_> = jobs.iter().map(|job| job.id).chain([late.id, last.id]).collect();
    assert_eq!(order, expected);
}

#[test]
fn until_it_is_known_what_is_aside_all_that_keeps_order_goes_there() {
    let mut consumer = Consumer::new(true);
    consumer.held.assign(0, Some(&start()), Some(&start()), 1);
    let paused = consumer.held.flow(|_| true);
    assert_eq!(paused, [(0, Log::Events, true)], "events.retry is read first");
    let second = consumer.read(Log::Events, job("a")).expect("the first may be in events.retry");
    let first = job("a");
    assert!(consumer.read(Log::Retry, first.clone()).is_none());
    assert_eq!(consumer.held.flow(|_| true), [(0, Log::Events, false)]);
    let third = consumer.read(Log::Events, job("a")).expect("the second is there");
    for aside in [&second, &third] {
        consumer.held.written(aside.entry.place, Some(&aside.entry.job));
    }
    for aside in [&second, &third] {
        drop(consumer.read(Log::Retry, (*aside.entry.job).clone()));
    }
    assert!(consumer.read(Log::Events, job("a")).is_none());
    assert_eq!(consumer.claim().job.id, first.id);
}

#[test]
fn a_full_window_is_not_read_until_there_is_room() {
    let mut consumer = Consumer::new(false);
    (0..100).for_each(|_| drop(consumer.read(Log::Events, job("a"))));
    assert_eq!(consumer.held.flow(|_| true), [(0, Log::Events, true)]);
    for _ in 0..25 {
        let lease = consumer.claim();
        consumer.settle(lease, Verdict::Done);
    }
    assert!(consumer.held.flow(|_| true).is_empty(), "it isn't turned on and off for each");
    let lease = consumer.claim();
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.held.flow(|_| true), [(0, Log::Events, false)]);
    let large = Job { body: Bytes::from(vec![0; WINDOW.bytes]), ..job("b") };
    drop(consumer.read(Log::Events, large));
    assert_eq!(consumer.held.flow(|_| true), [(0, Log::Events, true)]);
    assert_eq!(consumer.held.flow(|_| false), [(0, Log::Retry, true)], "it isn't its turn");
}

#[test]
fn a_partition_that_goes_lets_what_is_under_way_end_and_forgets_the_rest() {
    let mut consumer = Consumer::new(false);
    for lane in ["a", "b", "c"] {
        drop(consumer.read(Log::Events, job(lane)));
    }
    let (done, fails) = (consumer.claim(), consumer.claim());
    consumer.held.leave(&[0], consumer.now);
    assert!(consumer.held.claim(9, consumer.now).is_empty(), "nothing is begun");
    assert!(consumer.read(Log::Events, job("d")).is_none());
    assert_eq!(consumer.held.busy(&[0]), 2);
    let soon = consumer.now;
    consumer.settle(done, Verdict::Done);
    consumer.settle(fails, retry(soon));
    assert_eq!((consumer.held.busy(&[0]), consumer.committed(Log::Events)), (0, 1));
    assert!(consumer.held.claim(9, consumer.now).is_empty(), "who has it next tries again");
    consumer.held.forget(&[0], consumer.now);
    assert_eq!((consumer.held.depth(consumer.now), consumer.held.bytes()), (Depth::default(), 0));
}

#[test]
fn a_lease_of_an_earlier_time_settles_nothing() {
    let mut consumer = Consumer::new(false);
    drop(consumer.read(Log::Events, job("a")));
    let early = consumer.claim();
    consumer.held.forget(&[0], consumer.now);
    consumer.held.assign(0, Some(&start()), Some(&start()), 0);
    consumer.next = [0, 0];
    drop(consumer.read(Log::Events, job("a")));
    consumer.settle(early, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 0);
    let lease = consumer.claim();
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 1);
}

#[test]
fn a_log_that_begins_anew_is_read_from_its_beginning() {
    let mut consumer = Consumer::new(false);
    (0..5).for_each(|_| drop(consumer.read(Log::Events, job("a"))));
    let old = consumer.claim();
    consumer.next = [0, 0];
    (0..2).for_each(|_| drop(consumer.read(Log::Events, job("b"))));
    consumer.settle(old, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 0, "the old offset says nothing of the new log");
    assert_eq!(consumer.held.depth(consumer.now).ready, 6);
}
