//! Conformance: random sequences of calls agree with a simple model.

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
    /// Settles the lease of that index, modulo the number of leases that are out.
    Settle(usize, Outcome),
    /// Repeats the settlement of that index.
    SettleAgain(usize),
    Release(u8),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Retry,
    Fail,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum JobState {
    Waiting,
    Leased,
    /// Leased by a process that has ended. The lease may expire at any time.
    Orphaned,
    Dead,
}

/// A job as the model sees it.
struct ModelJob {
    lane: Lane,
    attempts: u32,
    state: JobState,
}

/// The undelivered jobs, and the order in which they were pushed.
#[derive(Default)]
struct Model {
    jobs: HashMap<MessageId, ModelJob>,
    order: Vec<MessageId>,
    ordered: bool,
}

impl Model {
    fn pushed(&mut self, job: &Job) {
        self.order.push(job.id);
        self.jobs.insert(job.id, ModelJob { lane: job.lane.clone(), attempts: 0, state: JobState::Waiting });
    }

    fn claimed(&mut self, lease: &Lease) {
        let id = lease.job.id;
        if self.ordered {
            let queued = |other: &&MessageId| {
                self.jobs
                    .get(other)
                    .is_some_and(|job| job.lane == lease.job.lane && job.state != JobState::Dead)
            };
            assert_eq!(self.order.iter().find(queued), Some(&id), "the first job of its lane");
        }
        let job = self.jobs.get_mut(&id).expect("a claimed job is not settled");
        match job.state {
            JobState::Waiting => assert_eq!(lease.attempt, job.attempts + 1),
            // An expired lease counts as an attempt, one that was given back does not.
            JobState::Orphaned => assert!(lease.attempt.saturating_sub(job.attempts) <= 2),
            JobState::Leased | JobState::Dead => panic!("claimed a job that is {:?}", job.state),
        }
        (job.state, job.attempts) = (JobState::Leased, lease.attempt);
    }

    fn settled(&mut self, id: MessageId, outcome: Outcome) {
        match outcome {
            Outcome::Done => drop(self.jobs.remove(&id)),
            Outcome::Retry | Outcome::Fail => self.jobs.get_mut(&id).unwrap().state = JobState::Waiting,
            Outcome::Dead => self.jobs.get_mut(&id).unwrap().state = JobState::Dead,
        }
    }

    fn count(&self, states: &[JobState]) -> u64 {
        self.jobs.values().filter(|job| states.contains(&job.state)).count() as u64
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome =
        prop_oneof![Just(Outcome::Done), Just(Outcome::Retry), Just(Outcome::Fail), Just(Outcome::Dead)];
    let step = prop_oneof![
        6 => proptest::collection::vec(0_u8..4, 1..6).prop_map(Step::Push),
        8 => (1_usize..6).prop_map(Step::Claim),
        12 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        2 => any::<usize>().prop_map(Step::SettleAgain),
        1 => (0_u8..4).prop_map(Step::Release),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn verdict(outcome: Outcome, clock: Clock) -> Verdict {
    match outcome {
        Outcome::Done => Verdict::Done,
        Outcome::Retry => retry(clock, milliseconds(1), EndpointState::Unknown),
        Outcome::Fail => retry(clock, milliseconds(1), EndpointState::Failed),
        Outcome::Dead => tests::dead(),
    }
}

pub(in crate::queue) async fn random_calls_agree_with_a_model<H: Harness>() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for case in 0..if H::DURABLE { 12 } else { 40 } {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        run::<H>(steps, case % 2 == 0).await;
    }
}

async fn run<H: Harness>(steps: Vec<Step>, ordered: bool) {
    // A failing sequence is not shrunk, so the last one printed is the one that failed.
    println!("{steps:?}");
    let retry = RetryPolicy::try_list(vec![milliseconds(1)], None, 0.0).unwrap();
    // Only the leases of a process that has ended expire within the test.
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
            Step::Settle(which, outcome) if !out.is_empty() => {
                let lease: Lease = out.swap_remove(which % out.len());
                model.settled(lease.job.id, outcome);
                let verdict = verdict(outcome, harness.clock());
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
                    model.jobs.get_mut(&lease.job.id).unwrap().state = JobState::Orphaned;
                }
                settled.clear();
            }
            Step::Settle(..) | Step::SettleAgain(_) | Step::Reopen => {}
        }
    }
    let depth = harness.queue().depth().await.unwrap();
    assert_eq!(depth.unsettled(), model.count(&[JobState::Waiting, JobState::Leased, JobState::Orphaned]));
    assert_eq!(depth.dead, model.count(&[JobState::Dead]));
    // Every job can be delivered in the end.
    for lease in out.drain(..) {
        model.settled(lease.job.id, Outcome::Done);
        done(harness.queue(), lease).await;
    }
    while model.count(&[JobState::Waiting, JobState::Orphaned]) > 0 {
        for lease in claim(harness.queue(), 8).await {
            model.claimed(&lease);
            model.settled(lease.job.id, Outcome::Done);
            done(harness.queue(), lease).await;
        }
    }
    assert_eq!(harness.queue().depth().await.unwrap().unsettled(), 0);
}
