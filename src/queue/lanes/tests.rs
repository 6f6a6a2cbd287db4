#![expect(clippy::arithmetic_side_effects, reason = "a count that overflows fails the test")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::common::clock::after;
use crate::common::job::Job;
use crate::common::retry::{Cause, EndpointState, Verdict};
use crate::queue::tests::{config, dead, job};

fn at(seconds: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
}

/// A scheduler whose jobs are all in memory.
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

    fn settle(&mut self, lease: &LeasedJob<Arc<Job>>, verdict: &Verdict, now: Timestamp) -> bool {
        let retry = self.lanes.retry_of(lease.id, verdict);
        self.lanes.settle(lease.id, verdict, retry, Arc::clone(&lease.job), now)
    }

    fn claim(&mut self, max: usize, now: Timestamp) -> Vec<LeasedJob<Arc<Job>>> {
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

/// Returns a scheduler in which lane `a` is healthy, has reached its limit and has `jobs` jobs.
fn with_healthy_a(jobs: usize) -> Scheduler {
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

/// Settles every claimed job with the same verdict, until `jobs` are settled.
fn settle_all(scheduler: &mut Scheduler, jobs: usize, verdict: &Verdict) {
    let mut settled = 0;
    while settled < jobs {
        for lease in scheduler.claim(jobs - settled, at(0)) {
            scheduler.settle(&lease, verdict, at(0));
            settled += 1;
        }
    }
}

fn lanes_of(leases: &[LeasedJob<Arc<Job>>]) -> Vec<Lane> {
    leases.iter().map(|lease| lease.job.lane.clone()).collect()
}

fn retry_at(seconds: u64) -> Verdict {
    Verdict::Retry { at: at(seconds), endpoint: EndpointState::Failed }
}

#[test]
fn lanes_take_turns() {
    let mut scheduler = with_healthy_a(3);
    for lane in ["b", "c", "c"] {
        scheduler.push(lane);
    }
    let first: HashSet<Lane> = lanes_of(&scheduler.claim(4, at(0))).into_iter().collect();
    assert_eq!(first, ["a", "b", "c"].map(Lane::new).into(), "no lane waits until another one is empty");
    assert_eq!(
        lanes_of(&scheduler.claim(4, at(0))),
        [Lane::new("a")],
        "c is new, so it may have one job leased"
    );
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
fn in_an_unordered_lane_other_jobs_overtake_a_retry() {
    let mut scheduler = with_jobs(false, &["a", "a"]);
    let first = scheduler.claim(1, at(0)).remove(0);
    scheduler.settle(&first, &retry_at(10), at(0));
    assert_ne!(scheduler.claim(1, at(0)).remove(0).job.id, first.job.id);
}

#[test]
fn an_ordered_lane_waits_for_its_first_job_and_other_lanes_do_not() {
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
fn an_expired_lease_is_leased_again_and_its_late_verdict_is_ignored() {
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
fn a_lane_has_at_most_its_limit_of_leases() {
    assert_eq!(with_healthy_a(20).claim(20, at(0)).len(), 4, "lane_in_flight");
    assert_eq!(with_jobs(false, &["a"; 20]).claim(20, at(0)).len(), 1, "a new endpoint starts with one");
}

#[test]
fn hanging_lanes_leave_a_slot_for_a_healthy_one() {
    let hanging: Vec<String> = (0..40).map(|lane| lane.to_string()).collect();
    let mut scheduler = with_healthy_a(0);
    for lane in &hanging {
        scheduler.push(lane);
    }
    let mut leased = scheduler.claim(100, at(0));
    assert_eq!(leased.len(), 24, "new lanes take three quarters of the slots");
    scheduler.push("a");
    assert_eq!(lanes_of(&scheduler.claim(100, at(0))), [Lane::new("a")]);

    // Once they have failed they take half, which leaves a quarter to new ones.
    for round in 0..4 {
        for lease in leased.drain(..) {
            scheduler.settle(&lease, &retry_at(0), at(round));
        }
        leased = scheduler.claim(100, at(round));
    }
    let failing = |leased: &[LeasedJob<Arc<Job>>]| leased.iter().filter(|lease| lease.attempt > 1).count();
    assert_eq!(failing(&leased), 16, "failing lanes take half of the slots");
    scheduler.push("cold");
    let more = scheduler.claim(100, at(4));
    assert!(
        leased.iter().chain(&more).any(|lease| lease.job.lane == Lane::new("cold")),
        "a new lane finds a slot"
    );
}

#[test]
fn a_lane_that_stops_answering_leaves_most_slots_free() {
    let mut scheduler = Scheduler::new(QueueConfig { lane_in_flight: 1_000, ..config(false) });
    for _ in 0..200 {
        scheduler.push("a");
    }
    settle_all(&mut scheduler, 100, &Verdict::Done);
    assert_eq!(scheduler.claim(100, at(0)).len(), 7, "a fifth of 32, rounded up");
}

#[test]
fn a_lane_that_fails_five_times_is_probed_once_per_delay() {
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
    assert_eq!(scheduler.claim(20, at(3)).len(), 2, "slow start begins again");
}

#[test]
fn a_job_pushed_to_a_throttled_lane_waits_for_its_timer() {
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
fn a_paused_lane_is_sent_nothing_then_a_probe() {
    let mut scheduler = with_healthy_a(20);
    let leases = scheduler.claim(1, at(0));
    scheduler.settle(&leases[0], &Verdict::Retry { at: at(600), endpoint: EndpointState::Paused }, at(0));
    assert!(scheduler.claim(20, at(599)).is_empty());
    assert_eq!(scheduler.claim(20, at(600)).len(), 1, "a probe");
}

#[test]
fn a_success_ends_a_pause() {
    let mut scheduler = with_healthy_a(3);
    let leases = scheduler.claim(2, at(0));
    let paused = Verdict::Retry { at: at(600), endpoint: EndpointState::Paused };
    scheduler.settle(&leases[0], &paused, at(0));
    scheduler.settle(&leases[1], &Verdict::Done, at(0));
    let last = scheduler.claim(9, at(0));
    assert_eq!(last.len(), 1, "the success ended the pause");
    scheduler.settle(&last[0], &Verdict::Done, at(0));
    scheduler.push("a");
    assert_eq!(scheduler.claim(9, at(0)).len(), 1);
}

#[test]
fn a_refused_address_does_not_throttle_the_endpoint() {
    let mut scheduler = with_healthy_a(20);
    settle_all(&mut scheduler, 12, &Verdict::Dead { cause: Cause::Refused("loopback".into()) });
    assert_eq!(scheduler.claim(4, at(0)).len(), 4);
}

#[test]
fn the_throttle_of_a_lane_outlives_its_jobs() {
    let mut scheduler = with_jobs(false, &["a", "b"]);
    for lease in scheduler.claim(2, at(0)) {
        scheduler.settle(&lease, &Verdict::Done, at(0));
    }
    assert!(scheduler.claim(1, at(0)).is_empty());
    assert!(
        scheduler.lanes.lanes.is_empty()
            && round_robin_from(EndpointHealth::Healthy).into_iter().all(|health| scheduler
                .lanes
                .run_queues
                .of(health)
                .is_empty())
    );
    assert_eq!(scheduler.lanes.idle.len(), 2);
    for _ in 0..3 {
        scheduler.push("a");
    }
    assert_eq!(scheduler.claim(3, at(0)).len(), 2, "one success allows two leases at once");
}

#[derive(Debug, Clone)]
enum Step {
    /// Pushes a job to that lane, and sets whether the lane is ordered.
    Push(u8, bool),
    Claim(usize),
    Settle(prop::sample::Index, u8),
    /// Loads lanes. Between the read and its result, so many seconds pass and so many jobs are claimed.
    Load(u64, usize),
    Release(u8),
    GiveBack(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4, any::<bool>()).prop_map(|(lane, ordered)| Step::Push(lane, ordered)),
        3 => (0_usize..6).prop_map(Step::Claim),
        4 => (any::<prop::sample::Index>(), 0_u8..6).prop_map(|(index, verdict)| Step::Settle(index, verdict)),
        2 => (0_u64..80, 0_usize..3).prop_map(|(wait, claims)| Step::Load(wait, claims)),
        1 => (0_u8..4).prop_map(Step::Release),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        2 => (0_u64..80).prop_map(Step::Wait),
    ]
}

/// A lease and its expiry.
type Lease = (LeasedJob<u64>, Timestamp);

/// The simplest correct queue, and the backend from which lanes are loaded.
#[derive(Default)]
struct Model {
    /// Unsettled jobs by lane, in order of publishing.
    lanes: HashMap<Lane, Vec<u64>>,
    /// The same jobs as a backend stores them.
    rows: HashMap<Lane, BTreeMap<LanePosition, WaitingJob<u64>>>,
    /// Leases that are out.
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
        self.rows.get_mut(&lane).unwrap().retain(|position, _| position.1 != seq);
    }

    fn unsettled(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }

    fn is_out(&self, seq: u64, now: Timestamp) -> bool {
        self.leases.iter().any(|(out, until)| out.job == seq && *until > now)
    }
}

/// A scheduler and the model that it must agree with.
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
        let (lane, position) = (Lane::new(&lane.to_string()), (self.now, self.seq));
        self.model.lanes.entry(lane.clone()).or_default().push(self.seq);
        self.model.rows.entry(lane.clone()).or_default().insert(position, WaitingJob::new(self.seq));
        self.scheduler.push(&lane, ordered, position, self.seq, self.now);
    }

    fn claim(&mut self, max: usize) -> Result<(), TestCaseError> {
        let claimed = self.scheduler.claim(max, self.now);
        prop_assert!(claimed.len() <= max);
        for leased in claimed {
            prop_assert!(!self.model.is_out(leased.job, self.now), "leased twice");
            let lane = self.model.lane_of(leased.job);
            prop_assert_eq!(leased.position.1, leased.job);
            if self.ordered {
                prop_assert_eq!(self.model.lanes[&lane].first(), Some(&leased.job), "out of order");
            }
            self.model.leases.retain(|(out, _)| out.job != leased.job);
            self.model.leases.push((leased, after(self.now, Duration::from_secs(60))));
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
        if let Some(ScheduledRetry { position, retry_at, failures, first_attempt_at }) = retry {
            let rows = self.model.rows.get_mut(&self.model.lane_of(lease.job)).unwrap();
            rows.retain(|position, _| position.1 != lease.job);
            rows.insert(position, WaitingJob { job: lease.job, failures, first_attempt_at, retry_at });
        }
        was_out
    }

    fn load(&mut self, wait: u64, claims: usize) -> Result<(), TestCaseError> {
        let lanes = self.scheduler.take_lanes_to_load();
        let read_of = |lane: Lane| {
            let from = self.scheduler.horizon(&lane);
            let rows = self.model.rows.get(&lane).into_iter().zip(from);
            let rows = rows.flat_map(|(rows, from)| rows.range(from..)).take(self.window);
            let read: Vec<_> = rows.map(|(position, row)| (*position, row.clone())).collect();
            (lane, from, read)
        };
        let read: Vec<_> = lanes.into_iter().map(read_of).collect();
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
            rows.values_mut().for_each(|row| row.retry_at = None);
            for ((_, seq), row) in rows.split_off(&(self.now, u64::MAX)) {
                rows.insert((self.now, seq), row);
            }
        }
        self.scheduler.release([&lane], self.now);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (lane, state) in &self.scheduler.lanes {
            let loaded = state.window.loaded();
            prop_assert!(loaded.len() <= self.window.saturating_mul(2));
            for position in loaded.keys() {
                prop_assert!(self.model.rows[lane].contains_key(position), "the backend has no such job");
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
            Step::Settle(_, _) | Step::GiveBack(_) if self.model.leases.is_empty() => {}
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
            Step::GiveBack(index) => {
                let (lease, _) = self.model.leases.swap_remove(index.index(self.model.leases.len()));
                self.scheduler.give_back(lease.id, self.now);
            }
            Step::Load(wait, claims) => self.load(wait, claims)?,
            Step::Release(lane) => self.release(lane),
            Step::Wait(seconds) => self.now = after(self.now, Duration::from_secs(seconds)),
        }
        self.check()
    }

    /// Imitates a restart of the process: only what the backend stores remains.
    fn restart(&mut self) {
        self.scheduler = Lanes::new(config(self.ordered), self.window);
        self.model.leases.clear();
        for (lane, rows) in &self.model.rows {
            if let Some(first) = rows.keys().next() {
                self.scheduler.add_unloaded(lane, rows.len() as u64, *first, false, self.now);
            }
        }
    }

    /// Delivers everything. No job may be lost or stuck.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1_000 {
            self.load(0, 0)?;
            let claimed = self.scheduler.claim(8, self.now);
            if claimed.is_empty() {
                let nothing_to_load = self.scheduler.lanes_to_load.is_empty();
                match self.scheduler.next_due() {
                    _ if !nothing_to_load => {}
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
    fn a_scheduler_in_memory_agrees_with_the_model(steps in steps(), ordered: bool) {
        check_against_model(steps, Vec::new(), ordered, usize::MAX)?;
    }

    #[test]
    fn a_scheduler_with_a_window_agrees_with_the_model(
        steps in steps(), after_restart in steps(), ordered: bool, window in 1_usize..6,
    ) {
        check_against_model(steps, after_restart, ordered, window)?;
    }
}
