//! Random sequences of calls, compared with a model that is too simple to be wrong.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::common::job::Lane;
use crate::queue::tests;

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<u8>),
    Claim(usize),
    /// Which of the leases that are out, and the verdict.
    Settle(usize, Fate),
    /// The same again, of one that was settled.
    SettleAgain(usize),
    Release(u8),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    Retry,
    Fail,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Leased,
    /// Its lease is somebody's who is gone: it may run out at any time.
    Lost,
    Dead,
}

struct Modelled {
    lane: Lane,
    attempts: u32,
    state: State,
}

/// Jobs that aren't delivered, by the order in which they were pushed.
#[derive(Default)]
struct Model {
    jobs: HashMap<MessageId, Modelled>,
    order: Vec<MessageId>,
    ordered: bool,
}

impl Model {
    fn pushed(&mut self, job: &Job) {
        self.order.push(job.id);
        self.jobs.insert(job.id, Modelled { lane: job.lane.clone(), attempts: 0, state: State::Waiting });
    }

    fn claimed(&mut self, lease: &Lease) {
        let id = lease.job.id;
        if self.ordered {
            let queued = |other: &&MessageId| {
                self.jobs.get(other).is_some_and(|job| job.lane == lease.job.lane && job.state != State::Dead)
            };
            assert_eq!(self.order.iter().find(queued), Some(&id), "the head of its lane");
        }
        let job = self.jobs.get_mut(&id).expect("a job that was settled is claimed");
        match job.state {
            State::Waiting => assert_eq!(lease.attempt, job.attempts + 1),
            // Counted where it ran out, not where it was given back.
            State::Lost => assert!(lease.attempt.saturating_sub(job.attempts) <= 2),
            State::Leased | State::Dead => panic!("claimed though {:?}", job.state),
        }
        (job.state, job.attempts) = (State::Leased, lease.attempt);
    }

    fn settled(&mut self, id: MessageId, fate: Fate) {
        match fate {
            Fate::Done => drop(self.jobs.remove(&id)),
            Fate::Retry | Fate::Fail => self.jobs.get_mut(&id).unwrap().state = State::Waiting,
            Fate::Dead => self.jobs.get_mut(&id).unwrap().state = State::Dead,
        }
    }

    fn count(&self, states: &[State]) -> u64 {
        self.jobs.values().filter(|job| states.contains(&job.state)).count() as u64
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![Just(Fate::Done), Just(Fate::Retry), Just(Fate::Fail), Just(Fate::Dead)];
    let step = prop_oneof![
        6 => proptest::collection::vec(0_u8..4, 1..6).prop_map(Step::Push),
        8 => (1_usize..6).prop_map(Step::Claim),
        12 => (any::<usize>(), fate).prop_map(|(which, fate)| Step::Settle(which, fate)),
        2 => any::<usize>().prop_map(Step::SettleAgain),
        1 => (0_u8..4).prop_map(Step::Release),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn verdict(fate: Fate, clock: Clock) -> Verdict {
    match fate {
        Fate::Done => Verdict::Done,
        Fate::Retry => retry(clock, milliseconds(1), EndpointState::Unknown),
        Fate::Fail => retry(clock, milliseconds(1), EndpointState::Failed),
        Fate::Dead => tests::dead(),
    }
}

pub(in crate::queue) async fn agrees_with_a_simple_model<H: Harness>() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for case in 0..if H::DURABLE { 12 } else { 40 } {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let told = format!("{steps:?}");
        if !run::<H>(steps, case % 2 == 0).await {
            return;
        }
        // Printed where an assertion fails, since this isn't shrunk.
        println!("held: {told}");
    }
}

async fn run<H: Harness>(steps: Vec<Step>, ordered: bool) -> bool {
    println!("{steps:?}");
    let retry = RetryPolicy::try_list(vec![milliseconds(1)], None, 0.0).unwrap();
    // Nothing runs out but what was lost in the middle.
    let config = QueueConfig { ordered, retry, lease: Duration::from_secs(3), max_jobs: 1_000, ..config() };
    let mut harness = H::start(config).await;
    let mut model = Model { ordered, ..Model::default() };
    let (mut out, mut settled) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Push(lanes) => {
                let jobs: Vec<_> = lanes.iter().map(|lane| job(&format!("lane{lane}"))).collect();
                jobs.iter().for_each(|job| model.pushed(job));
                harness.queue().push(jobs).await.unwrap();
            }
            Step::Claim(max) => {
                let claimed = tokio::time::timeout(milliseconds(5), harness.queue().claim(max)).await;
                let claimed = claimed.map(Result::unwrap).unwrap_or_default();
                assert!(claimed.len() <= max);
                claimed.iter().for_each(|lease| model.claimed(lease));
                out.extend(claimed);
            }
            Step::Settle(which, fate) if !out.is_empty() => {
                let lease: Lease = out.swap_remove(which % out.len());
                model.settled(lease.job.id, fate);
                let verdict = verdict(fate, harness.clock());
                let settlement = [Settlement { lease, verdict, attempt: None }];
                harness.queue().settle(&settlement).await.unwrap();
                settled.push(settlement);
            }
            Step::SettleAgain(which) if !settled.is_empty() => {
                harness.queue().settle(&settled[which % settled.len()]).await.unwrap();
            }
            Step::Release(lane) => {
                harness.queue().release(&[job(&format!("lane{lane}")).lane]).await.unwrap();
            }
            Step::Reopen if H::DURABLE => {
                harness.reopen().await;
                if !H::KEEPS_COUNT {
                    model.jobs.values_mut().for_each(|job| job.attempts = 0);
                }
                for lease in out.drain(..) {
                    model.jobs.get_mut(&lease.job.id).unwrap().state = State::Lost;
                }
                settled.clear();
            }
            Step::Settle(..) | Step::SettleAgain(_) | Step::Reopen => {}
        }
    }
    let depth = harness.queue().depth().await.unwrap();
    assert_eq!(depth.unsettled(), model.count(&[State::Waiting, State::Leased, State::Lost]));
    assert_eq!(depth.dead, model.count(&[State::Dead]));
    // All of it is delivered in the end.
    for lease in out.drain(..) {
        model.settled(lease.job.id, Fate::Done);
        done(harness.queue(), lease).await;
    }
    while model.count(&[State::Waiting, State::Lost]) > 0 {
        for lease in claim(harness.queue(), 8).await {
            model.claimed(&lease);
            model.settled(lease.job.id, Fate::Done);
            done(harness.queue(), lease).await;
        }
    }
    assert_eq!(harness.queue().depth().await.unwrap().unsettled(), 0);
    true
}
