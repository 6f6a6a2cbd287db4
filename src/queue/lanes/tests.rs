#![expect(clippy::arithmetic_side_effects, reason = "a count that overflows fails the test")]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::common::id::MessageId;
use crate::queue::tests::{config, dead, job};

fn at(seconds: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
}

fn with_jobs(ordered: bool, lanes: &[&str]) -> Lanes {
    let mut scheduler = Lanes::new(config(ordered));
    for lane in lanes {
        scheduler.push(Arc::new(job(lane)));
    }
    scheduler
}

/// A scheduler in which lane `a` has shown that it does well, and has `jobs` jobs.
fn with_a_doing_well(jobs: usize) -> Lanes {
    let mut scheduler = with_jobs(false, &["a"; 4]);
    for _ in 0..4 {
        for lease in scheduler.claim(1, at(0)) {
            scheduler.settle(&lease, Verdict::Done, at(0));
        }
    }
    for _ in 0..jobs {
        scheduler.push(Arc::new(job("a")));
    }
    scheduler
}

/// Settles whatever lane `a` gives out, in the same way, until it has given `jobs`.
fn settle_all(scheduler: &mut Lanes, jobs: usize, verdict: &Verdict) {
    let mut settled = 0;
    while settled < jobs {
        for lease in scheduler.claim(jobs - settled, at(0)) {
            scheduler.settle(&lease, verdict.clone(), at(0));
            settled += 1;
        }
    }
}

fn lanes_of(leases: &[Lease]) -> Vec<Lane> {
    leases.iter().map(|lease| lease.job.lane.clone()).collect()
}

fn retry_at(seconds: u64) -> Verdict {
    Verdict::Retry { at: at(seconds), endpoint: EndpointState::Failed }
}

#[test]
fn lanes_take_turns() {
    let mut scheduler = with_a_doing_well(3);
    for lane in ["b", "c", "c"] {
        scheduler.push(Arc::new(job(lane)));
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
    scheduler.settle(&lease, retry_at(10), at(0));
    assert!(scheduler.claim(1, at(9)).is_empty());
    assert_eq!(scheduler.next_due(), Some(at(10)));
    let again = scheduler.claim(1, at(10)).remove(0);
    assert_eq!((again.job.id, again.attempt), (lease.job.id, 2));
}

#[test]
fn unordered_a_failed_job_waits_aside_and_its_lane_goes_on() {
    let mut scheduler = with_jobs(false, &["a", "a"]);
    let first = scheduler.claim(1, at(0)).remove(0);
    scheduler.settle(&first, retry_at(10), at(0));
    assert_ne!(scheduler.claim(1, at(0)).remove(0).job.id, first.job.id);
}

#[test]
fn ordered_a_lane_waits_for_its_head_and_only_that_lane() {
    let mut scheduler = with_jobs(true, &["a", "a", "b"]);
    let claimed = scheduler.claim(8, at(0));
    assert_eq!(lanes_of(&claimed), ["a", "b"].map(Lane::new));
    let head = &claimed[0];
    scheduler.settle(head, retry_at(10), at(0));
    assert!(scheduler.claim(8, at(9)).is_empty());
    let again = scheduler.claim(8, at(10));
    assert_eq!(again.iter().map(|lease| lease.job.id).collect::<Vec<_>>(), [head.job.id]);
    scheduler.settle(&again[0], dead(), at(10));
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
    assert!(scheduler.settle(&lost, Verdict::Done, at(61)).is_none());
    assert!(matches!(scheduler.settle(&again, Verdict::Done, at(61)), Some(Settled::Done)));
    assert!(scheduler.settle(&again, Verdict::Done, at(61)).is_none(), "settled twice");
    assert_eq!(scheduler.depth(), Depth::default());
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
        scheduler.push(Arc::new(job(lane)));
    }
    let mut held = scheduler.claim(100, at(0));
    assert_eq!(held.len(), 24, "new lanes have three quarters of the slots");
    scheduler.push(Arc::new(job("a")));
    assert_eq!(lanes_of(&scheduler.claim(100, at(0))), [Lane::new("a")]);

    // Once they have failed they have half, which leaves new ones a quarter.
    for round in 0..4 {
        for lease in held.drain(..) {
            scheduler.settle(&lease, retry_at(0), at(round));
        }
        held = scheduler.claim(100, at(round));
    }
    let failing = |held: &[Lease]| held.iter().filter(|lease| lease.attempt > 1).count();
    assert_eq!(failing(&held), 16, "failing lanes have half of the slots");
    scheduler.push(Arc::new(job("cold")));
    let more = scheduler.claim(100, at(4));
    assert!(
        held.iter().chain(&more).any(|lease| lease.job.lane == Lane::new("cold")),
        "a new lane finds a slot"
    );
}

#[test]
fn a_lane_that_stops_answering_leaves_most_slots_free() {
    let free = config(false);
    let mut scheduler = Lanes::new(QueueConfig { lane_in_flight: 1_000, ..free });
    (0..200).for_each(|_| scheduler.push(Arc::new(job("a"))));
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
    scheduler.settle(&probe[0], dead(), at(1));
    assert!(scheduler.claim(20, at(2)).is_empty());
    let probe = scheduler.claim(20, at(3));
    scheduler.settle(&probe[0], Verdict::Done, at(3));
    assert_eq!(scheduler.claim(20, at(3)).len(), 2, "slowly again");
}

#[test]
fn a_job_pushed_to_a_lane_that_is_held_back_waits_for_its_timer() {
    let mut scheduler = with_jobs(false, &["a"; 5]);
    settle_all(&mut scheduler, 5, &retry_at(100));
    for _ in 0..3 {
        scheduler.push(Arc::new(job("a")));
        assert!(scheduler.claim(20, at(0)).is_empty(), "the breaker is open");
    }
    assert_eq!(scheduler.timers.len(), 5 + 1, "five retries, and one timer for the lane");
    assert_eq!(scheduler.claim(20, at(1)).len(), 1);
}

#[test]
fn who_asks_to_be_left_alone_is() {
    let mut scheduler = with_a_doing_well(20);
    let leases = scheduler.claim(1, at(0));
    scheduler.settle(&leases[0], Verdict::Retry { at: at(600), endpoint: EndpointState::Paused }, at(0));
    assert!(scheduler.claim(20, at(599)).is_empty());
    assert_eq!(scheduler.claim(20, at(600)).len(), 1, "a probe");
}

#[test]
fn a_success_lifts_a_pause_for_later_jobs_as_well() {
    let mut scheduler = with_a_doing_well(3);
    let leases = scheduler.claim(2, at(0));
    let paused = Verdict::Retry { at: at(600), endpoint: EndpointState::Paused };
    scheduler.settle(&leases[0], paused, at(0));
    scheduler.settle(&leases[1], Verdict::Done, at(0));
    let last = scheduler.claim(9, at(0));
    assert_eq!(last.len(), 1, "the success lifted the pause");
    scheduler.settle(&last[0], Verdict::Done, at(0));
    scheduler.push(Arc::new(job("a")));
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
        scheduler.settle(&lease, Verdict::Done, at(0));
    }
    assert!(scheduler.claim(1, at(0)).is_empty());
    assert!(
        scheduler.lanes.is_empty()
            && turns_from(Standing::Well).into_iter().all(|standing| scheduler.rings.of(standing).is_empty())
    );
    assert_eq!(scheduler.idle.len(), 2);
    for _ in 0..3 {
        scheduler.push(Arc::new(job("a")));
    }
    assert_eq!(scheduler.claim(3, at(0)).len(), 2, "one success lets it have two at once");
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    Claim(usize),
    Settle(prop::sample::Index, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..4).prop_map(Step::Push),
        3 => (0_usize..6).prop_map(Step::Claim),
        4 => (any::<prop::sample::Index>(), 0_u8..6).prop_map(|(index, verdict)| Step::Settle(index, verdict)),
        2 => (0_u64..80).prop_map(Step::Wait),
    ]
}

/// What a queue must be, said as simply as can be.
#[derive(Default)]
struct Model {
    /// Unsettled jobs by lane, in order.
    lanes: HashMap<Lane, Vec<MessageId>>,
    /// Leases that are out, with when they run out.
    leases: Vec<(Lease, Timestamp)>,
}

impl Model {
    fn settled(&mut self, lease: &Lease) {
        if let Some(lane) = self.lanes.get_mut(&lease.job.lane) {
            lane.retain(|id| *id != lease.job.id);
        }
    }

    fn unsettled(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }
}

fn check_against_model(steps: Vec<Step>, ordered: bool) -> Result<(), TestCaseError> {
    let mut scheduler = Lanes::new(config(ordered));
    let mut model = Model::default();
    let mut now = at(0);
    for step in steps {
        match step {
            Step::Push(lane) => {
                let job = job(&lane.to_string());
                model.lanes.entry(job.lane.clone()).or_default().push(job.id);
                scheduler.push(Arc::new(job));
            }
            Step::Claim(max) => {
                let claimed = scheduler.claim(max, now);
                prop_assert!(claimed.len() <= max);
                for lease in claimed {
                    model.leases.retain(|(out, until)| *until > now || out.job.id != lease.job.id);
                    let twice = model.leases.iter().any(|(out, _)| out.job.id == lease.job.id);
                    prop_assert!(!twice, "leased twice");
                    if ordered {
                        prop_assert_eq!(
                            model.lanes[&lease.job.lane].first(),
                            Some(&lease.job.id),
                            "out of order"
                        );
                    }
                    model.leases.push((lease, after(now, Duration::from_secs(60))));
                }
                prop_assert!(model.leases.iter().filter(|(_, until)| *until > now).count() <= 32);
            }
            Step::Settle(index, verdict) => {
                if model.leases.is_empty() {
                    continue;
                }
                let (lease, _) = model.leases.swap_remove(index.index(model.leases.len()));
                let verdict = match verdict {
                    0 | 1 => Verdict::Done,
                    2 => dead(),
                    later => Verdict::Retry {
                        at: after(now, Duration::from_secs(u64::from(later))),
                        endpoint: [EndpointState::Failed, EndpointState::Paused, EndpointState::Unknown]
                            [usize::from(later) % 3],
                    },
                };
                let retried = matches!(verdict, Verdict::Retry { .. });
                if scheduler.settle(&lease, verdict, now).is_some() && !retried {
                    model.settled(&lease);
                }
            }
            Step::Wait(seconds) => now = after(now, Duration::from_secs(seconds)),
        }
        prop_assert_eq!(scheduler.depth().unsettled(), model.unsettled() as u64);
        prop_assert_eq!(scheduler.jobs().count(), model.unsettled());
    }
    // Whatever happened, everything is delivered in the end: nothing is lost, nothing sticks.
    for _ in 0..1_000 {
        let claimed = scheduler.claim(8, now);
        for lease in &claimed {
            prop_assert!(scheduler.settle(lease, Verdict::Done, now).is_some());
            model.settled(lease);
        }
        if claimed.is_empty() {
            match scheduler.next_due() {
                Some(due) => now = now.max(due),
                None => break,
            }
        }
    }
    prop_assert_eq!(model.unsettled(), 0);
    prop_assert_eq!(scheduler.depth(), Depth::default());
    prop_assert!(scheduler.lanes.is_empty() && scheduler.timers.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn unordered_it_does_what_the_model_does(steps in prop::collection::vec(step(), 0..120)) {
        check_against_model(steps, false)?;
    }

    #[test]
    fn ordered_it_does_what_the_model_does(steps in prop::collection::vec(step(), 0..120)) {
        check_against_model(steps, true)?;
    }
}
