#![expect(clippy::arithmetic_side_effects, reason = "a count that overflows fails the test")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::common::job::Job;
use crate::queue::tests::{config, dead, job};

fn at(seconds: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
}

/// A scheduler with jobs of its own, all in memory.
struct Scheduler {
    lanes: Lanes<Arc<Job>>,
    seq: u64,
}

impl Scheduler {
    fn new(config: QueueConfig) -> Self {
        Self { lanes: Lanes::new(config, usize::MAX), seq: 0 }
    }

    fn push(&mut self, lane: &str) -> Arc<Job> {
        let job = Arc::new(job(lane));
        self.seq += 1;
        self.lanes.push(&job.lane, false, (at(0), self.seq), Arc::clone(&job), at(0));
        job
    }

    fn settle(&mut self, lease: &Picked<Arc<Job>>, verdict: &Verdict, now: Timestamp) -> bool {
        let retry = self.lanes.retry_of(lease.id, verdict);
        self.lanes.settle(lease.id, verdict, retry, Arc::clone(&lease.job), now)
    }

    fn claim(&mut self, max: usize, now: Timestamp) -> Vec<Picked<Arc<Job>>> {
        self.lanes.claim(max, now)
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.lanes.next_due()
    }
}

fn with_jobs(ordered: bool, lanes: &[&str]) -> Scheduler {
    let mut scheduler = Scheduler::new(config(ordered));
    for lane in lanes {
        scheduler.push(lane);
    }
    scheduler
}

/// A scheduler in which lane `a` has shown that it does well, and has `jobs` jobs.
fn with_a_doing_well(jobs: usize) -> Scheduler {
    let mut scheduler = with_jobs(false, &["a"; 4]);
    for _ in 0..4 {
        for lease in scheduler.claim(1, at(0)) {
            scheduler.settle(&lease, &Verdict::Done, at(0));
        }
    }
    for _ in 0..jobs {
        scheduler.push("a");
    }
    scheduler
}

/// Settles whatever lane `a` gives out, in the same way, until it has given `jobs`.
fn settle_all(scheduler: &mut Scheduler, jobs: usize, verdict: &Verdict) {
    let mut settled = 0;
    while settled < jobs {
        for lease in scheduler.claim(jobs - settled, at(0)) {
            scheduler.settle(&lease, verdict, at(0));
            settled += 1;
        }
    }
}

fn lanes_of(leases: &[Picked<Arc<Job>>]) -> Vec<Lane> {
    leases.iter().map(|lease| lease.job.lane.clone()).collect()
}

fn retry_at(seconds: u64) -> Verdict {
    Verdict::Retry { at: at(seconds), endpoint: EndpointState::Failed }
}

#[test]
fn lanes_take_turns() {
    let mut scheduler = with_a_doing_well(3);
    for lane in ["b", "c", "c"] {
        scheduler.push(lane);
    }
    let first: HashSet<Lane> = lanes_of(&scheduler.claim(4, at(0))).into_iter().collect();
    assert_eq!(first, ["a", "b", "c"].map(Lane::new).into(), "no lane waits until another has nothing left");
    assert_eq!(lanes_of(&scheduler.claim(4, at(0))), [Lane::new("a")], "c may have one at once");
}

#[test]
fn a_retry_is_hidden_until_it_is_due_and_its_attempts_are_counted() {
    let mut scheduler = with_jobs(false, &["a"]);
    let lease = scheduler.claim(1, at(0)).remove(0);
    assert_eq!(lease.attempt, 1);
    scheduler.settle(&lease, &retry_at(10), at(0));
    assert!(scheduler.claim(1, at(9)).is_empty());
    assert_eq!(scheduler.next_due(), Some(at(10)));
    let again = scheduler.claim(1, at(10)).remove(0);
    assert_eq!((again.job.id, again.attempt), (lease.job.id, 2));
}

#[test]
fn unordered_a_failed_job_waits_aside_and_its_lane_goes_on() {
    let mut scheduler = with_jobs(false, &["a", "a"]);
    let first = scheduler.claim(1, at(0)).remove(0);
    scheduler.settle(&first, &retry_at(10), at(0));
    assert_ne!(scheduler.claim(1, at(0)).remove(0).job.id, first.job.id);
}

#[test]
fn ordered_a_lane_waits_for_its_head_and_only_that_lane() {
    let mut scheduler = with_jobs(true, &["a", "a", "b"]);
    let claimed = scheduler.claim(8, at(0));
    assert_eq!(lanes_of(&claimed), ["a", "b"].map(Lane::new));
    let head = &claimed[0];
    scheduler.settle(head, &retry_at(10), at(0));
    assert!(scheduler.claim(8, at(9)).is_empty());
    let again = scheduler.claim(8, at(10));
    assert_eq!(again.iter().map(|lease| lease.job.id).collect::<Vec<_>>(), [head.job.id]);
    scheduler.settle(&again[0], &dead(), at(10));
    assert_eq!(scheduler.claim(8, at(10)).len(), 1);
}

#[test]
fn an_unsettled_lease_comes_back_and_its_late_verdict_is_harmless() {
    let mut scheduler = with_jobs(false, &["a"]);
    let lost = scheduler.claim(1, at(0)).remove(0);
    assert_eq!(scheduler.next_due(), Some(at(60)));
    assert!(scheduler.claim(1, at(59)).is_empty());
    let again = scheduler.claim(1, at(60)).remove(0);
    assert_eq!((again.job.id, again.attempt), (lost.job.id, 2));
    assert!(!scheduler.settle(&lost, &Verdict::Done, at(61)));
    assert!(scheduler.settle(&again, &Verdict::Done, at(61)));
    assert!(!scheduler.settle(&again, &Verdict::Done, at(61)), "settled twice");
    assert_eq!(scheduler.lanes.depth(at(99)), Depth::default());
}

#[test]
fn one_lane_has_at_most_its_share() {
    assert_eq!(with_a_doing_well(20).claim(20, at(0)).len(), 4, "lane_in_flight");
    assert_eq!(with_jobs(false, &["a"; 20]).claim(20, at(0)).len(), 1, "nothing is known of it");
}

#[test]
fn hanging_lanes_leave_a_slot_for_one_that_answers() {
    let hanging: Vec<String> = (0..40).map(|lane| lane.to_string()).collect();
    let mut scheduler = with_a_doing_well(0);
    for lane in &hanging {
        scheduler.push(lane);
    }
    let mut held = scheduler.claim(100, at(0));
    assert_eq!(held.len(), 24, "new lanes have three quarters of the slots");
    scheduler.push("a");
    assert_eq!(lanes_of(&scheduler.claim(100, at(0))), [Lane::new("a")]);

    // Once they have failed they have half, which leaves new ones a quarter.
    for round in 0..4 {
        for lease in held.drain(..) {
            scheduler.settle(&lease, &retry_at(0), at(round));
        }
        held = scheduler.claim(100, at(round));
    }
    let failing = |held: &[Picked<Arc<Job>>]| held.iter().filter(|lease| lease.attempt > 1).count();
    assert_eq!(failing(&held), 16, "failing lanes have half of the slots");
    scheduler.push("cold");
    let more = scheduler.claim(100, at(4));
    assert!(
        held.iter().chain(&more).any(|lease| lease.job.lane == Lane::new("cold")),
        "a new lane finds a slot"
    );
}

#[test]
fn a_lane_that_stops_answering_leaves_most_slots_free() {
    let free = config(false);
    let mut scheduler = Scheduler::new(QueueConfig { lane_in_flight: 1_000, ..free });
    for _ in 0..200 {
        scheduler.push("a");
    }
    settle_all(&mut scheduler, 100, &Verdict::Done);
    assert_eq!(scheduler.claim(100, at(0)).len(), 7, "a fifth of 32, rounded up");
}

#[test]
fn a_lane_that_fails_five_times_is_probed_once_a_delay() {
    let mut scheduler = with_jobs(false, &["a"; 20]);
    settle_all(&mut scheduler, 5, &dead());
    assert!(scheduler.claim(20, at(0)).is_empty(), "the breaker is open");
    assert_eq!(scheduler.next_due(), Some(at(1)));
    let probe = scheduler.claim(20, at(1));
    assert_eq!(probe.len(), 1);
    assert!(scheduler.claim(20, at(1)).is_empty(), "one probe at a time");
    scheduler.settle(&probe[0], &dead(), at(1));
    assert!(scheduler.claim(20, at(2)).is_empty());
    let probe = scheduler.claim(20, at(3));
    scheduler.settle(&probe[0], &Verdict::Done, at(3));
    assert_eq!(scheduler.claim(20, at(3)).len(), 2, "slowly again");
}

#[test]
fn a_job_pushed_to_a_lane_that_is_throttled_waits_for_its_timer() {
    let mut scheduler = with_jobs(false, &["a"; 5]);
    settle_all(&mut scheduler, 5, &retry_at(100));
    for _ in 0..3 {
        scheduler.push("a");
        assert!(scheduler.claim(20, at(0)).is_empty(), "the breaker is open");
    }
    assert_eq!(scheduler.lanes.timers.len(), 1, "one timer for the lane");
    assert_eq!(scheduler.claim(20, at(1)).len(), 1);
}

#[test]
fn who_asks_to_be_left_alone_is() {
    let mut scheduler = with_a_doing_well(20);
    let leases = scheduler.claim(1, at(0));
    scheduler.settle(&leases[0], &Verdict::Retry { at: at(600), endpoint: EndpointState::Paused }, at(0));
    assert!(scheduler.claim(20, at(599)).is_empty());
    assert_eq!(scheduler.claim(20, at(600)).len(), 1, "a probe");
}

#[test]
fn a_success_lifts_a_pause_for_later_jobs_as_well() {
    let mut scheduler = with_a_doing_well(3);
    let leases = scheduler.claim(2, at(0));
    let paused = Verdict::Retry { at: at(600), endpoint: EndpointState::Paused };
    scheduler.settle(&leases[0], &paused, at(0));
    scheduler.settle(&leases[1], &Verdict::Done, at(0));
    let last = scheduler.claim(9, at(0));
    assert_eq!(last.len(), 1, "the success lifted the pause");
    scheduler.settle(&last[0], &Verdict::Done, at(0));
    scheduler.push("a");
    assert_eq!(scheduler.claim(9, at(0)).len(), 1);
}

#[test]
fn a_refused_address_says_nothing_of_the_endpoint() {
    let mut scheduler = with_a_doing_well(20);
    settle_all(&mut scheduler, 12, &Verdict::Dead { cause: Cause::Refused("loopback".into()) });
    assert_eq!(scheduler.claim(4, at(0)).len(), 4);
}

#[test]
fn a_lane_without_jobs_is_forgotten_but_not_what_was_learnt_of_it() {
    let mut scheduler = with_jobs(false, &["a", "b"]);
    for lease in scheduler.claim(2, at(0)) {
        scheduler.settle(&lease, &Verdict::Done, at(0));
    }
    assert!(scheduler.claim(1, at(0)).is_empty());
    assert!(
        scheduler.lanes.lanes.is_empty()
            && turns_from(EndpointHealth::Healthy).into_iter().all(|health| scheduler
                .lanes
                .rings
                .of(health)
                .is_empty())
    );
    assert_eq!(scheduler.lanes.idle.len(), 2);
    for _ in 0..3 {
        scheduler.push("a");
    }
    assert_eq!(scheduler.claim(3, at(0)).len(), 2, "one success lets it have two at once");
}

#[derive(Debug, Clone)]
enum Step {
    /// To that lane, which keeps order from then on or doesn't, where not all do.
    Push(u8, bool),
    Claim(usize),
    Settle(prop::sample::Index, u8),
    /// What is to be read; before it is taken in, so much time passes and so many are claimed.
    Read(u64, usize),
    Release(u8),
    Unclaim(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4, any::<bool>()).prop_map(|(lane, ordered)| Step::Push(lane, ordered)),
        3 => (0_usize..6).prop_map(Step::Claim),
        4 => (any::<prop::sample::Index>(), 0_u8..6).prop_map(|(index, verdict)| Step::Settle(index, verdict)),
        2 => (0_u64..80, 0_usize..3).prop_map(|(wait, claims)| Step::Read(wait, claims)),
        1 => (0_u8..4).prop_map(Step::Release),
        1 => any::<prop::sample::Index>().prop_map(Step::Unclaim),
        2 => (0_u64..80).prop_map(Step::Wait),
    ]
}

type Lease = (Picked<u64>, Timestamp);

/// What a queue must be, said as simply as can be, and the backend that lanes are read from.
#[derive(Default)]
struct Model {
    /// Unsettled jobs by lane, in order of publishing.
    lanes: HashMap<Lane, Vec<u64>>,
    /// The same as a backend keeps them.
    rows: HashMap<Lane, BTreeMap<Key, Waiting<u64>>>,
    /// Leases that are out, with when they run out.
    leases: Vec<Lease>,
}

impl Model {
    fn lane_of(&self, seq: u64) -> Lane {
        let mut lanes = self.lanes.iter().filter(|(_, jobs)| jobs.contains(&seq));
        lanes.next().map(|(lane, _)| lane.clone()).unwrap()
    }

    fn remove(&mut self, seq: u64) {
        let lane = self.lane_of(seq);
        self.lanes.get_mut(&lane).unwrap().retain(|job| *job != seq);
        self.rows.get_mut(&lane).unwrap().retain(|key, _| key.1 != seq);
    }

    fn unsettled(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }

    fn is_out(&self, seq: u64, now: Timestamp) -> bool {
        self.leases.iter().any(|(out, until)| out.job == seq && *until > now)
    }
}

/// A scheduler over a window of each lane, and what it must do.
struct Run {
    scheduler: Lanes<u64>,
    window: usize,
    ordered: bool,
    model: Model,
    seq: u64,
    now: Timestamp,
}

impl Run {
    fn push(&mut self, lane: u8, ordered: bool) {
        self.seq += 1;
        let (lane, key) = (Lane::new(&lane.to_string()), (self.now, self.seq));
        self.model.lanes.entry(lane.clone()).or_default().push(self.seq);
        self.model.rows.entry(lane.clone()).or_default().insert(key, Waiting::new(self.seq));
        self.scheduler.push(&lane, ordered, key, self.seq, self.now);
    }

    fn claim(&mut self, max: usize) -> Result<(), TestCaseError> {
        let claimed = self.scheduler.claim(max, self.now);
        prop_assert!(claimed.len() <= max);
        for picked in claimed {
            prop_assert!(!self.model.is_out(picked.job, self.now), "leased twice");
            let lane = self.model.lane_of(picked.job);
            prop_assert_eq!(picked.key.1, picked.job);
            if self.ordered {
                prop_assert_eq!(self.model.lanes[&lane].first(), Some(&picked.job), "out of order");
            }
            self.model.leases.retain(|(out, _)| out.job != picked.job);
            self.model.leases.push((picked, after(self.now, Duration::from_secs(60))));
        }
        prop_assert!(self.model.leases.iter().filter(|(_, until)| *until > self.now).count() <= 32);
        Ok(())
    }

    fn settle(&mut self, (lease, _): Lease, verdict: &Verdict) -> bool {
        let retry = self.scheduler.retry_of(lease.id, verdict);
        let was_out = self.scheduler.settle(lease.id, verdict, retry, lease.job, self.now);
        if was_out && retry.is_none() {
            self.model.remove(lease.job);
        }
        if let Some(Retry { key, held_until, failures, first_attempt_at }) = retry {
            let rows = self.model.rows.get_mut(&self.model.lane_of(lease.job)).unwrap();
            rows.retain(|key, _| key.1 != lease.job);
            rows.insert(key, Waiting { job: lease.job, failures, first_attempt_at, held_until });
        }
        was_out
    }

    fn read(&mut self, wait: u64, claims: usize) -> Result<(), TestCaseError> {
        let unread = self.scheduler.take_unread();
        let read_of = |lane: Lane| {
            let from = self.scheduler.horizon(&lane);
            let rows = self.model.rows.get(&lane).into_iter().zip(from);
            let rows = rows.flat_map(|(rows, from)| rows.range(from..)).take(self.window);
            let read: Vec<_> = rows.map(|(key, row)| (*key, row.clone())).collect();
            (lane, from, read)
        };
        let read: Vec<_> = unread.into_iter().map(read_of).collect();
        self.now = after(self.now, Duration::from_secs(wait));
        self.claim(claims)?;
        for (lane, from, read) in read {
            let is_all = read.len() < self.window;
            self.scheduler.fill(&lane, from, read, is_all, self.now);
        }
        Ok(())
    }

    fn release(&mut self, lane: u8) {
        let lane = Lane::new(&lane.to_string());
        if let Some(rows) = self.model.rows.get_mut(&lane) {
            rows.values_mut().for_each(|row| row.held_until = None);
            for ((_, seq), row) in rows.split_off(&(self.now, u64::MAX)) {
                rows.insert((self.now, seq), row);
            }
        }
        self.scheduler.release([&lane], self.now);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (lane, state) in &self.scheduler.lanes {
            let near = state.window.near();
            prop_assert!(near.len() <= self.window.saturating_mul(2));
            for key in near.keys() {
                prop_assert!(self.model.rows[lane].contains_key(key), "it has what the backend hasn't");
            }
        }
        if self.window == usize::MAX {
            prop_assert_eq!(self.scheduler.depth(self.now).unsettled(), self.model.unsettled() as u64);
            prop_assert_eq!(self.scheduler.jobs().count(), self.model.unsettled());
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Push(lane, ordered) => self.push(lane, ordered),
            Step::Claim(max) => self.claim(max)?,
            Step::Settle(_, _) | Step::Unclaim(_) if self.model.leases.is_empty() => {}
            Step::Settle(index, verdict) => {
                let lease = self.model.leases.swap_remove(index.index(self.model.leases.len()));
                let verdict = match verdict {
                    0 | 1 => Verdict::Done,
                    2 => dead(),
                    later => Verdict::Retry {
                        at: after(self.now, Duration::from_secs(u64::from(later))),
                        endpoint: [EndpointState::Failed, EndpointState::Paused, EndpointState::Unknown]
                            [usize::from(later) % 3],
                    },
                };
                self.settle(lease, &verdict);
            }
            Step::Unclaim(index) => {
                let (lease, _) = self.model.leases.swap_remove(index.index(self.model.leases.len()));
                self.scheduler.unclaim(lease.id, self.now);
            }
            Step::Read(wait, claims) => self.read(wait, claims)?,
            Step::Release(lane) => self.release(lane),
            Step::Wait(seconds) => self.now = after(self.now, Duration::from_secs(seconds)),
        }
        self.check()
    }

    /// The process ends and another begins, with what the backend has.
    fn restart(&mut self) {
        self.scheduler = Lanes::new(config(self.ordered), self.window);
        self.model.leases.clear();
        for (lane, rows) in &self.model.rows {
            if let Some(first) = rows.keys().next() {
                self.scheduler.add_unread(lane, rows.len() as u64, *first, false, self.now);
            }
        }
    }

    /// Whatever happened, everything is delivered in the end: nothing is lost, nothing sticks.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1_000 {
            self.read(0, 0)?;
            let claimed = self.scheduler.claim(8, self.now);
            if claimed.is_empty() {
                let unread = self.scheduler.take_unread();
                let nothing_to_read = unread.is_empty();
                self.scheduler.unread = unread;
                match self.scheduler.next_due() {
                    _ if !nothing_to_read => {}
                    Some(due) => self.now = self.now.max(due),
                    None => break,
                }
            }
            for lease in claimed {
                prop_assert!(self.settle((lease, self.now), &Verdict::Done));
            }
        }
        prop_assert_eq!(self.model.unsettled(), 0);
        prop_assert_eq!(self.scheduler.depth(self.now), Depth::default());
        prop_assert!(self.scheduler.lanes.is_empty() && self.scheduler.timers.is_empty());
        Ok(())
    }
}

fn check_against_model(
    steps: Vec<Step>,
    after_restart: Vec<Step>,
    ordered: bool,
    window: usize,
) -> Result<(), TestCaseError> {
    let scheduler = Lanes::new(config(ordered), window);
    let mut run = Run { scheduler, window, ordered, model: Model::default(), seq: 0, now: at(0) };
    steps.into_iter().try_for_each(|step| run.step(step))?;
    if window < usize::MAX {
        run.restart();
        after_restart.into_iter().try_for_each(|step| run.step(step))?;
    }
    run.drain()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..120)
}

proptest! {
    #[test]
    fn in_memory_it_does_what_the_model_does(steps in steps(), ordered: bool) {
        check_against_model(steps, Vec::new(), ordered, usize::MAX)?;
    }

    #[test]
    fn over_a_window_it_does_what_the_model_does(
        steps in steps(), after_restart in steps(), ordered: bool, window in 1_usize..6,
    ) {
        check_against_model(steps, after_restart, ordered, window)?;
    }
}
