use std::collections::HashSet;

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
    /// What stands in events.retry.
    retry: Vec<(Job, Past)>,
}

impl Consumer {
    fn new(ordered: bool) -> Self {
        let mut held = Held::new(tests::config(ordered), WINDOW);
        held.assign(0, &start(0), &start(0));
        Self { held, now: Timestamp::from_second(1_800_000_000).unwrap(), next: [0, 0], retry: Vec::new() }
    }

    fn read(&mut self, log: Log, job: Job) -> Vec<Aside> {
        self.read_again(log, job, Past::default())
    }

    /// A job that is to be held.
    fn hold(&mut self, log: Log, job: Job) {
        assert!(self.read(log, job).is_empty());
    }

    /// What was put aside is written, and stands in events.retry from `first` on.
    fn written(&mut self, asides: &[Aside], first: i64) {
        for (offset, aside) in (first..).zip(asides) {
            assert!(self.held.written(aside.entry.place, Some(&aside.entry), offset, self.now).is_empty());
        }
    }

    /// What was put aside is written, and read again.
    fn read_back(&mut self, asides: &[Aside]) {
        self.written(asides, self.next[1]);
        for aside in asides {
            let (job, past) = ((*aside.entry.job).clone(), aside.past.clone());
            assert!(self.read_again(Log::Retry, job, past).is_empty());
        }
    }

    /// All that is given out, in order, and taken; what had left memory is read again.
    fn deliver_all(&mut self) -> Vec<MessageId> {
        let mut delivered = Vec::new();
        loop {
            while let Some(lease) = self.held.claim(1, self.now).pop() {
                delivered.push(lease.job.id);
                self.settle(lease, Verdict::Done);
            }
            let fetches = self.held.flow(|_| true).fetches;
            if fetches.is_empty() {
                return delivered;
            }
            fetches.into_iter().for_each(|fetch| self.fetch(&fetch));
        }
    }

    fn fetch(&mut self, fetch: &Fetch) {
        let log = (0_i64..).zip(&self.retry).filter(|(offset, _)| fetch.offsets.contains(offset));
        let of_lane = log.filter(|(_, (job, _))| job.lane == fetch.lane);
        let jobs: Vec<_> = of_lane
            .take(fetch.most.jobs)
            .map(|(offset, (job, past))| (offset, job.clone(), past.clone()))
            .collect();
        let is_all = jobs.len() < fetch.most.jobs;
        let last = jobs.last().map(|(offset, ..)| offset.saturating_add(1));
        let reached = last.filter(|_| !is_all).unwrap_or(fetch.offsets.end);
        assert!(self.held.refill(fetch, Some(Fetched { jobs, reached }), self.now).is_empty());
    }

    #[expect(clippy::arithmetic_side_effects, reason = "tests, though in functions of their own")]
    fn read_again(&mut self, log: Log, job: Job, past: Past) -> Vec<Aside> {
        let next = &mut self.next[log as usize];
        let offset = *next;
        *next += 1;
        if log == Log::Retry {
            self.retry.push((job.clone(), past.clone()));
        }
        self.held.read((log, 0, offset), job.body.len(), job, past, self.now)
    }

    fn claim(&mut self) -> Lease {
        let mut claimed = self.held.claim(1, self.now);
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    fn settle(&mut self, lease: Lease, verdict: Verdict) {
        let settlement = Settlement { lease, verdict, attempt: None };
        assert!(self.held.settle(&settlement, self.now).is_none());
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

/// From the beginning of a log that ends there.
fn start(end: i64) -> Start {
    Start { from: Some(Progress { offset: 0, metadata: String::new() }), end: Some(end) }
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
        consumer.hold(Log::Events, job(lane));
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
    (0..2).for_each(|_| consumer.hold(Log::Events, job("a")));
    let lease = consumer.claim();
    let hour = after(consumer.now, Duration::from_secs(3_600));
    let settlement = Settlement { lease, verdict: retry(hour), attempt: None };
    let Some(Rest::Later(aside)) = consumer.held.settle(&settlement, consumer.now) else { panic!() };
    assert_eq!((aside.past.due(), aside.past.failures), (Some(hour), 1));
    assert!(consumer.held.settle(&settlement, consumer.now).is_none(), "it is settled once");
    assert_eq!(consumer.committed(Log::Events), 0, "not before it is written");
    assert_eq!(consumer.held.busy(&[0]), 1);
    consumer.written(std::slice::from_ref(&aside), 0);
    assert_eq!((consumer.committed(Log::Events), consumer.held.busy(&[0])), (1, 0));
    let lease = consumer.claim();
    let (dead, cause) = ((*lease.job).clone(), Cause::Exhausted(Failure::TimedOut));
    let settlement = Settlement { lease, verdict: Verdict::Dead { cause }, attempt: None };
    let Some(Rest::Dead(entry, _)) = consumer.held.settle(&settlement, consumer.now) else { panic!() };
    // It may be replayed as soon as it can be read there, however late that is heard of here.
    consumer.hold(Log::Events, dead);
    assert_eq!(consumer.claim().job.id, entry.job.id);
    consumer.held.written(entry.place, None, 0, consumer.now);
    assert_eq!(consumer.committed(Log::Events), 2);
    // Read again from events.retry, it waits for its time and has its past.
    assert!(consumer.read_again(Log::Retry, job("a"), aside.past).is_empty());
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    consumer.wait(3_600);
    assert_eq!(consumer.claim().attempt, 2);
}

#[test]
fn in_a_lane_that_keeps_order_a_far_retry_is_waited_for() {
    let mut consumer = Consumer::new(true);
    (0..2).for_each(|_| consumer.hold(Log::Events, job("a")));
    let lease = consumer.claim();
    let hour = after(consumer.now, Duration::from_secs(3_600));
    let settlement = Settlement { lease, verdict: retry(hour), attempt: None };
    assert!(consumer.held.settle(&settlement, consumer.now).is_none());
    assert!(consumer.held.claim(1, consumer.now).is_empty());
}

#[test]
fn a_job_that_is_held_is_not_held_twice() {
    let mut consumer = Consumer::new(false);
    let published = job("a");
    consumer.hold(Log::Events, published.clone());
    consumer.hold(Log::Events, published.clone());
    let lease = consumer.claim();
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 2);
    consumer.hold(Log::Events, published.clone());
    consumer.hold(Log::Retry, published);
    assert_eq!(consumer.held.claim(9, consumer.now).len(), 1);
}

#[test]
fn a_lane_that_stands_still_makes_room() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| consumer.hold(Log::Events, job("hangs")));
    let hanging = consumer.claim();
    consumer.hold(Log::Events, job("well"));
    assert!(consumer.held.crowding(consumer.now).is_empty(), "it may answer yet");
    consumer.wait(6);
    let well = consumer.claim();
    consumer.settle(well, Verdict::Done);
    let aside = consumer.held.crowding(consumer.now);
    assert_eq!(aside.len(), 59 - 10, "a quarter of what is free stays");
    assert!(aside.iter().all(|aside| aside.entry.job.lane == hanging.job.lane));
    assert_eq!(consumer.held.busy(&[0]), 1 + 49);
    // What is on its way is a job of its own where it is read again: this one may be let go of at any moment.
    consumer.hold(Log::Retry, (*aside[0].entry.job).clone());
    assert_eq!(consumer.held.depth(consumer.now).ready, 11);
    consumer.written(&aside, 0);
    assert_eq!(consumer.held.busy(&[0]), 1);
    assert_eq!(consumer.committed(Log::Events), 0, "what it leased holds the offset still");
    assert!(consumer.held.crowding(consumer.now).is_empty());
}

#[test]
fn a_lane_that_does_well_has_time_for_its_backlog() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| consumer.hold(Log::Events, job("slow")));
    let first = consumer.claim();
    consumer.settle(first, Verdict::Done);
    let _leased = consumer.held.claim(9, consumer.now);
    consumer.wait(6);
    assert!(consumer.held.crowding(consumer.now).is_empty());
    consumer.wait(30);
    assert_eq!(consumer.held.crowding(consumer.now).len(), 57 - 10);
}

#[test]
fn what_is_read_again_is_held_for_a_while_before_it_makes_room_again() {
    let mut consumer = Consumer::new(false);
    (0..60).for_each(|_| consumer.hold(Log::Retry, job("hangs")));
    let _hanging = consumer.claim();
    consumer.wait(6);
    assert!(consumer.held.crowding(consumer.now).is_empty());
    consumer.wait(30);
    assert_eq!(consumer.held.crowding(consumer.now).len(), 59 - 10);
}

#[test]
fn a_lane_that_keeps_order_is_put_aside_in_order_and_what_comes_follows() {
    let mut consumer = Consumer::new(true);
    let jobs: Vec<Job> = (0..60).map(|_| job("hangs")).collect();
    jobs.iter().for_each(|job| consumer.hold(Log::Events, job.clone()));
    let hanging = consumer.claim();
    consumer.wait(6);
    let mut in_retry = consumer.held.crowding(consumer.now);
    assert_eq!(in_retry.len(), 59 - 10);
    let late = job("hangs");
    let follows = consumer.read(Log::Events, late.clone());
    assert_eq!(follows.len(), 1, "it follows the others of its lane");
    in_retry.extend(follows);
    consumer.hold(Log::Events, job("other"));
    consumer.read_back(&in_retry);
    let last = job("hangs");
    let follows = consumer.read(Log::Events, last.clone());
    assert_eq!(follows.len(), 1, "not all of them are in memory");
    consumer.read_back(&follows);
    consumer.settle(hanging, Verdict::Done);
    let mut order = consumer.deliver_all();
    order.retain(|id| jobs.iter().chain([&late, &last]).any(|job| job.id == *id));
    let expected: Vec<_> = jobs[1..].iter().map(|job| job.id).chain([late.id, last.id]).collect();
    assert_eq!(order, expected);
}

/// What one consumer put aside of a lane that keeps order, the one that comes after it delivers in order.
#[test]
fn order_outlives_a_consumer_that_put_jobs_aside() {
    let mut first = Consumer::new(true);
    let jobs: Vec<Job> = (0..60).map(|_| job("hangs")).collect();
    jobs.iter().for_each(|job| first.hold(Log::Events, job.clone()));
    let _hanging = first.claim();
    first.wait(6);
    let aside = first.held.crowding(first.now);
    let on_its_way = &aside[30..];
    // The last of them are written, and the consumer is killed before it hears of that.
    first.written(&aside[..30], 0);
    let committed = first.held.progress();
    let of = |log| committed.iter().find(|(_, of, _)| *of == log).map(|(_, _, progress)| progress.clone());

    let mut next = Consumer::new(true);
    next.held.forget(&[0], next.now);
    let events = Start { from: of(Log::Events), end: Some(60) };
    assert!(next.held.assign(0, &events, &start(49)), "events.retry is read first");
    let read_retry = |next: &mut Consumer| -> Vec<Aside> {
        let again =
            |aside: &Aside| next.read_again(Log::Retry, (*aside.entry.job).clone(), aside.past.clone());
        aside.iter().flat_map(again).collect()
    };
    // What isn't known to be in events.retry follows the others there.
    let read_events = |next: &mut Consumer| -> Vec<Aside> {
        jobs.iter().flat_map(|job| next.read(Log::Events, job.clone())).collect()
    };
    let deliver = |mut next: Consumer, follows: Vec<Aside>| {
        next.read_back(&follows);
        let mut delivered = next.deliver_all();
        let committed: Vec<i64> =
            next.held.progress().iter().map(|(_, _, progress)| progress.offset).collect();
        assert_eq!(committed, [60, next.next[1]]);
        let (all, mut seen) = (delivered.len(), HashSet::new());
        delivered.retain(|id| seen.insert(*id));
        let twice = all - delivered.len();
        (delivered, twice)
    };
    let expected: Vec<_> = jobs.iter().map(|job| job.id).collect();
    assert!(read_retry(&mut next).is_empty());
    assert!(next.held.claim(9, next.now).is_empty(), "others may stand before them");
    let follows = read_events(&mut next);
    assert_eq!(follows.len(), on_its_way.len());
    let (delivered, twice) = deliver(next, follows);
    assert_eq!(delivered, expected);
    assert!(twice <= on_its_way.len());

    // Also where events come before they should.
    let mut next = Consumer::new(true);
    next.held.forget(&[0], next.now);
    next.held.assign(0, &events, &start(49));
    assert!(read_events(&mut next).is_empty());
    assert!(next.held.claim(9, next.now).is_empty());
    let follows = read_retry(&mut next);
    assert_eq!(deliver(next, follows).0, expected);
}

fn in_order(lane: &str) -> Job {
    Job { ordered: true, ..job(lane) }
}

/// Where jobs of others fill the window of events.retry, those that keep order pass, and follow their own.
#[test]
fn what_is_known_of_the_rest_of_events_retry_lets_others_pass() {
    let mut consumer = Consumer::new(false);
    consumer.held.forget(&[0], consumer.now);
    assert!(consumer.held.assign(0, &start(300), &start(200)));
    (0..100).for_each(|_| consumer.hold(Log::Retry, job("slow")));
    let _leased = consumer.held.claim(9, consumer.now);
    let Flow { changed, unknown, .. } = consumer.held.flow(|_| true);
    assert_eq!(changed, [(0, Log::Retry, true)], "events are paused, and stay so");
    assert_eq!((unknown.len(), unknown[0].offsets.clone()), (1, 100..200));
    assert!(consumer.held.flow(|_| true).unknown.is_empty(), "it is searched once");
    let (before, other) = (in_order("hangs"), in_order("other"));
    consumer.hold(Log::Events, before.clone());
    consumer.hold(Log::Events, other.clone());
    let given_out = |consumer: &mut Consumer| -> Vec<MessageId> {
        let claimed = consumer.held.claim(99, consumer.now).into_iter();
        claimed.filter(|lease| lease.ordered).map(|lease| lease.job.id).collect()
    };
    assert_eq!(given_out(&mut consumer), []);
    let mut away = Away::default();
    away.add(100, 200);
    away.add(199, 299);
    let found = HashMap::from([(job("hangs").lane, away)]);
    assert!(consumer.held.learn(&unknown[0], Some(found), consumer.now).is_empty());
    assert_eq!(consumer.held.flow(|_| true).changed, [(0, Log::Events, false)]);
    assert_eq!(given_out(&mut consumer), [before.id, other.id]);
    consumer.next[0] = 300;
    assert_eq!(
        consumer.read(Log::Events, in_order("hangs")).len(),
        1,
        "it follows those that aren't read yet"
    );
    consumer.hold(Log::Events, in_order("other"));
}

#[test]
fn a_search_that_failed_is_begun_again() {
    let mut consumer = Consumer::new(false);
    consumer.held.forget(&[0], consumer.now);
    consumer.held.assign(0, &start(0), &start(101));
    (0..100).for_each(|_| consumer.hold(Log::Retry, job("a")));
    let Flow { unknown, .. } = consumer.held.flow(|_| true);
    assert!(consumer.held.learn(&unknown[0], None, consumer.now).is_empty());
    assert_eq!(consumer.held.flow(|_| true).unknown, unknown);
}

/// However many jobs of lanes that keep order and hang are in events.retry, others are read from there.
#[test]
fn lanes_that_keep_order_leave_room_in_events_retry() {
    let mut consumer = Consumer::new(true);
    consumer.next[0] = 1_000;
    consumer.hold(Log::Events, job("later"));
    let jobs: Vec<Job> = (0..300).map(|n| job(&format!("hangs-{}", n % 3))).collect();
    for (origin, job) in (0..).zip(&jobs) {
        let past = Past::default().of_origin(Some(origin));
        assert!(consumer.read_again(Log::Retry, job.clone(), past).is_empty());
    }
    let hanging = consumer.held.claim(4, consumer.now);
    assert_eq!(hanging.len(), 4, "one of each, and the later");
    assert_eq!(consumer.held.depth(consumer.now).ready, 297);
    let Flow { changed, fetches, .. } = consumer.held.flow(|_| true);
    assert_eq!((changed, fetches), (Vec::new(), Vec::new()), "there is room");
    consumer.hold(Log::Retry, job("other"));
    let other = consumer.claim();
    assert_eq!(other.job.lane, job("other").lane);
    consumer.settle(other, Verdict::Done);
    let last = job("hangs-1");
    let follows = consumer.read(Log::Events, last.clone());
    assert_eq!(follows.len(), 1, "it follows those that left memory");

    let fetch = Fetch {
        partition: 0,
        term: 0,
        rewinds: 0,
        lane: job("hangs-0").lane,
        offsets: 0..300,
        most: Window { jobs: 1, bytes: 1 },
    };
    assert!(consumer.held.refill(&fetch, None, consumer.now).is_empty(), "of another time");
    // Now they answer, and all of them come back, in order.
    let mut delivered: Vec<MessageId> = hanging.iter().map(|lease| lease.job.id).collect();
    hanging.into_iter().for_each(|lease| consumer.settle(lease, Verdict::Done));
    consumer.read_back(&follows);
    delivered.extend(consumer.deliver_all());
    for lane in ["hangs-0", "hangs-1", "hangs-2"].map(|lane| job(lane).lane) {
        let of_lane = || jobs.iter().chain([&last]).filter(|job| job.lane == lane);
        let came = delivered.iter().copied().filter(|id| of_lane().any(|job| job.id == *id));
        let (came, expected): (Vec<_>, Vec<_>) = (came.collect(), of_lane().map(|job| job.id).collect());
        assert_eq!(came, expected);
    }
    assert_eq!((consumer.held.bytes(), consumer.held.depth(consumer.now).ready), (0, 0));
}

#[test]
fn until_the_end_of_events_retry_is_known_no_order_is() {
    let mut consumer = Consumer::new(true);
    consumer.held.forget(&[0], consumer.now);
    let unknown = Start::default();
    assert!(consumer.held.assign(0, &start(1), &unknown));
    consumer.hold(Log::Events, job("a"));
    assert!(consumer.held.claim(9, consumer.now).is_empty());
    assert_eq!(consumer.held.without_end().collect::<Vec<_>>(), [0]);
    assert!(consumer.held.learn_end(0, 7, 7, consumer.now).is_empty());
    assert_eq!(consumer.held.without_end().count(), 0);
    consumer.claim();
    assert_eq!(consumer.committed(Log::Retry), 7);
}

#[test]
fn a_full_window_is_not_read_until_there_is_room() {
    let mut consumer = Consumer::new(false);
    (0..100).for_each(|_| consumer.hold(Log::Events, job("a")));
    assert_eq!(consumer.held.flow(|_| true).changed, [(0, Log::Events, true)]);
    for _ in 0..25 {
        let lease = consumer.claim();
        consumer.settle(lease, Verdict::Done);
    }
    assert!(consumer.held.flow(|_| true).changed.is_empty(), "it isn't turned on and off for each");
    let lease = consumer.claim();
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.held.flow(|_| true).changed, [(0, Log::Events, false)]);
    let large = Job { body: Bytes::from(vec![0; WINDOW.bytes]), ..job("b") };
    consumer.hold(Log::Events, large);
    assert_eq!(consumer.held.flow(|_| true).changed, [(0, Log::Events, true)]);
    assert_eq!(consumer.held.flow(|_| false).changed, [(0, Log::Retry, true)], "it isn't its turn");
}

#[test]
fn a_partition_that_goes_lets_what_is_under_way_end_and_forgets_the_rest() {
    let mut consumer = Consumer::new(false);
    for lane in ["a", "b", "c"] {
        consumer.hold(Log::Events, job(lane));
    }
    let (done, fails) = (consumer.claim(), consumer.claim());
    consumer.held.leave(&[0], consumer.now);
    assert!(consumer.held.claim(9, consumer.now).is_empty(), "nothing is begun");
    consumer.hold(Log::Events, job("d"));
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
    consumer.hold(Log::Events, job("a"));
    let early = consumer.claim();
    consumer.held.forget(&[0], consumer.now);
    consumer.held.assign(0, &start(0), &start(0));
    consumer.next = [0, 0];
    consumer.hold(Log::Events, job("a"));
    consumer.settle(early, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 0);
    let lease = consumer.claim();
    consumer.settle(lease, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 1);
}

#[test]
fn a_log_that_begins_anew_is_read_from_its_beginning() {
    let mut consumer = Consumer::new(false);
    (0..5).for_each(|_| consumer.hold(Log::Events, job("a")));
    let old = consumer.claim();
    consumer.next = [0, 0];
    (0..2).for_each(|_| consumer.hold(Log::Events, job("b")));
    consumer.settle(old, Verdict::Done);
    assert_eq!(consumer.committed(Log::Events), 0, "the old offset says nothing of the new log");
    assert_eq!(consumer.held.depth(consumer.now).ready, 6);
}

#[test]
fn what_may_come_twice_is_bounded() {
    let mut consumer = Consumer::new(false);
    let settle = |consumer: &mut Consumer, jobs: u64| {
        for _ in 0..jobs {
            consumer.hold(Log::Events, job("a"));
            let lease = consumer.claim();
            consumer.settle(lease, Verdict::Done);
        }
        consumer.hold(Log::Events, job("a"));
    };
    settle(&mut consumer, MOST_UNCOMMITTED);
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    drop(consumer.held.progress());
    consumer.held.committed(Committed::NotYet);
    assert!(consumer.held.claim(1, consumer.now).is_empty());
    drop(consumer.held.progress());
    consumer.held.committed(Committed::Yes);
    consumer.claim();
}

#[test]
fn a_lane_of_large_jobs_is_not_read_again_beyond_its_bytes() {
    let mut consumer = Consumer::new(true);
    consumer.next[0] = 1_000;
    consumer.hold(Log::Events, job("later"));
    let large = || Job { body: Bytes::from(vec![0; WINDOW.bytes / 20]), ..job("hangs") };
    for origin in 0..60 {
        let past = Past::default().of_origin(Some(origin));
        assert!(consumer.read_again(Log::Retry, large(), past).is_empty());
    }
    let _hanging = consumer.held.claim(2, consumer.now);
    assert!(consumer.held.bytes() < WINDOW.bytes / 2, "{}", consumer.held.bytes());
    for _ in 0..20 {
        let Flow { changed, fetches, .. } = consumer.held.flow(|_| true);
        assert!(changed.is_empty() && fetches.is_empty(), "what is in memory is enough: it hangs");
    }
}

#[test]
fn while_a_commit_is_waited_for_nothing_is_due_and_where_none_is_taken_nothing_waits() {
    let mut consumer = Consumer::new(false);
    let soon = after(consumer.now, Duration::from_secs(1));
    consumer.hold(Log::Events, job("retried"));
    let lease = consumer.claim();
    consumer.settle(lease, retry(soon));
    for _ in 0..MOST_UNCOMMITTED {
        consumer.hold(Log::Events, job("a"));
        let lease = consumer.claim();
        consumer.settle(lease, Verdict::Done);
    }
    assert_eq!(consumer.held.next_due(), None);
    drop(consumer.held.progress());
    consumer.held.committed(Committed::Refused);
    consumer.wait(1);
    assert_eq!(consumer.claim().attempt, 2);
    assert!(!consumer.held.progress().is_empty(), "it is told again");
}

/// What was cut off `events.retry` is read again, and what of it was on its way into memory isn't taken for what is there now.
#[test]
fn a_retry_log_that_is_cut_off_is_read_again() {
    let mut consumer = Consumer::new(true);
    consumer.next[0] = 1_000;
    consumer.hold(Log::Events, job("later"));
    let jobs: Vec<Job> = (0..200).map(|_| job("hangs")).collect();
    for (origin, job) in (0..).zip(&jobs) {
        let past = Past::default().of_origin(Some(origin));
        assert!(consumer.read_again(Log::Retry, job.clone(), past).is_empty());
    }
    let mut delivered = Vec::new();
    let fetch = loop {
        if let Some(fetch) = consumer.held.flow(|_| true).fetches.pop() {
            break fetch;
        }
        let lease = consumer.claim();
        delivered.push(lease.job.id);
        consumer.settle(lease, Verdict::Done);
    };
    // The log goes on from 150 with others of that lane.
    consumer.next[1] = 150;
    consumer.retry.truncate(150);
    let new: Vec<Job> = (0..10).map(|_| job("hangs")).collect();
    let again = |n: usize| Past::default().of_origin(Some(300 + i64::try_from(n).unwrap()));
    assert!(consumer.read_again(Log::Retry, new[0].clone(), again(0)).is_empty());
    assert_eq!(consumer.held.without_end().collect::<Vec<_>>(), [0], "its end isn't known any more");
    consumer.fetch(&fetch);
    for (n, job) in new.iter().enumerate().skip(1) {
        assert!(consumer.read_again(Log::Retry, job.clone(), again(n)).is_empty());
    }
    assert!(consumer.held.learn_end(0, 0, 160, consumer.now).is_empty());
    delivered.extend(consumer.deliver_all());
    delivered.retain(|id| jobs[..150].iter().chain(&new).any(|job| job.id == *id));
    let expected: Vec<_> = jobs[..150].iter().chain(&new).map(|job| job.id).collect();
    assert_eq!(delivered, expected);
    let committed = consumer.held.progress();
    assert!(committed.iter().any(|(_, log, progress)| *log == Log::Retry && progress.offset == 160));
}

#[test]
fn a_lane_that_stands_still_goes_on_making_room() {
    let mut consumer = Consumer::new(false);
    (0..100).for_each(|_| consumer.hold(Log::Events, job("hangs")));
    let _hanging = consumer.held.claim(9, consumer.now);
    consumer.wait(6);
    let mut put_aside = consumer.held.crowding(consumer.now).len();
    assert_eq!(put_aside, 98, "all but those that wait longest");
    // What comes next needn't wait for as long again.
    (0..90).for_each(|_| consumer.hold(Log::Events, job("hangs")));
    put_aside += consumer.held.crowding(consumer.now).len();
    assert!(put_aside > 98 + 80, "{put_aside}");
}
