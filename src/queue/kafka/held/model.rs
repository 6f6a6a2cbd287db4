//! Random lives of consumers of one partition, killed and begun anew, over two logs in memory: whatever was published is
//! delivered, and first in order where that is asked for.

#![expect(clippy::arithmetic_side_effects, reason = "a test, whose numbers are small")]

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::common::retry::EndpointState;
use crate::queue::tests;

const LANES: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// So many jobs of a lane; the first two lanes keep order.
    Publish(usize, usize),
    /// So many records of each log that isn't paused.
    Read(usize),
    /// So many jobs are given out, and come to what their lanes answer.
    Deliver(usize),
    /// A lane answers, fails or hangs from now on.
    Become(usize, Answer),
    /// So many seconds go by, and windows are looked after.
    Wait(u64),
    /// So many of what is put aside are written.
    Write(usize),
    Commit,
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Well,
    Fails,
    Hangs,
}

fn step() -> impl Strategy<Value = Step> {
    let answer = prop_oneof![Just(Answer::Well), Just(Answer::Fails), Just(Answer::Hangs)];
    prop_oneof![
        3 => (0..LANES, 1..12_usize).prop_map(|(lane, jobs)| Step::Publish(lane, jobs)),
        6 => (1..20_usize).prop_map(Step::Read),
        4 => (1..10_usize).prop_map(Step::Deliver),
        2 => (0..LANES, answer).prop_map(|(lane, answer)| Step::Become(lane, answer)),
        4 => (0..40_u64).prop_map(Step::Wait),
        3 => (0..20_usize).prop_map(Step::Write),
        2 => Just(Step::Commit),
        1 => Just(Step::Kill),
    ]
}

/// Kafka, and what was published and delivered.
#[derive(Default)]
struct World {
    events: Vec<Job>,
    retry: Vec<(Job, Past)>,
    committed: HashMap<Log, Progress>,
    delivered: Vec<MessageId>,
}

struct Life {
    world: World,
    held: Held,
    now: Timestamp,
    next: HashMap<Log, usize>,
    paused: HashSet<Log>,
    writing: VecDeque<Aside>,
    answers: [Answer; LANES],
    hanging: Vec<Lease>,
}

impl Life {
    fn new() -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let held = Held::new(tests::config(false), Window { jobs: 16, bytes: 1_000_000 });
        let mut life = Self {
            world: World::default(),
            held,
            now,
            next: HashMap::new(),
            paused: HashSet::new(),
            writing: VecDeque::new(),
            answers: [Answer::Well; LANES],
            hanging: Vec::new(),
        };
        life.begin();
        life
    }

    fn begin(&mut self) {
        let start = |log, end: usize| Start {
            from: Some(
                self.world
                    .committed
                    .get(&log)
                    .cloned()
                    .unwrap_or(Progress { offset: 0, metadata: String::new() }),
            ),
            end: Some(i64::try_from(end).unwrap()),
        };
        let (events, retry) =
            (start(Log::Events, self.world.events.len()), start(Log::Retry, self.world.retry.len()));
        self.held = Held::new(tests::config(false), Window { jobs: 16, bytes: 1_000_000 });
        self.paused.clear();
        if self.held.assign(0, &events, &retry) {
            self.paused.insert(Log::Events);
        }
        let next = |start: &Start| usize::try_from(start.from.as_ref().unwrap().offset).unwrap();
        self.next = HashMap::from([(Log::Events, next(&events)), (Log::Retry, next(&retry))]);
        self.writing.clear();
        self.hanging.clear();
    }

    fn put_aside(&mut self, asides: Vec<Aside>) {
        self.writing.extend(asides);
    }

    fn read(&mut self, records: usize) {
        for log in [Log::Retry, Log::Events] {
            for _ in 0..records {
                let next = self.next[&log];
                let record = match log {
                    Log::Events => self.world.events.get(next).cloned().map(|job| (job, Past::default())),
                    Log::Retry => self.world.retry.get(next).cloned(),
                };
                let Some((job, past)) = record.filter(|_| !self.paused.contains(&log)) else { break };
                self.next.insert(log, next + 1);
                let at = (log, 0, i64::try_from(next).unwrap());
                let asides = self.held.read(at, 10, job, past, self.now);
                self.put_aside(asides);
            }
            self.flow();
        }
    }

    fn flow(&mut self) {
        let Flow { changed, unknown, fetches } = self.held.flow(|_| true);
        for (_, log, pause) in changed {
            if pause {
                self.paused.insert(log);
            } else {
                self.paused.remove(&log);
            }
        }
        let retry = || (0_i64..).zip(&self.world.retry);
        let mut asides = Vec::new();
        for unknown in unknown {
            let mut found = HashMap::<Lane, Away>::new();
            for (offset, (job, past)) in retry().filter(|(offset, _)| unknown.offsets.contains(offset)) {
                let is_settled = unknown.settled.iter().any(|range| range.contains(&offset));
                if job.ordered && !is_settled {
                    found.entry(job.lane.clone()).or_default().add(offset, past.origin.unwrap_or(-1));
                }
            }
            asides.extend(self.held.learn(&unknown, Some(found), self.now));
        }
        for fetch in fetches {
            let of_lane =
                retry().filter(|(offset, (job, _))| fetch.offsets.contains(offset) && job.lane == fetch.lane);
            let found = of_lane.take(fetch.most.jobs);
            let jobs: Vec<_> =
                found.map(|(offset, (job, past))| (offset, job.clone(), past.clone())).collect();
            let is_cut = jobs.len() == fetch.most.jobs;
            let reached = jobs.last().filter(|_| is_cut).map_or(fetch.offsets.end, |(offset, ..)| offset + 1);
            asides.extend(self.held.refill(&fetch, Some(Fetched { jobs, reached }), self.now));
        }
        self.put_aside(asides);
    }

    fn settle(&mut self, lease: Lease, answer: Answer) {
        let verdict = match answer {
            Answer::Well => Verdict::Done,
            _ => Verdict::Retry {
                at: after(self.now, Duration::from_secs(90)),
                endpoint: EndpointState::Failed,
            },
        };
        let settlement = Settlement { lease, verdict, attempt: None };
        match self.held.settle(&settlement, self.now) {
            Some(Rest::Later(aside)) => self.put_aside(vec![aside]),
            rest => assert!(rest.is_none()),
        }
    }

    fn deliver(&mut self, jobs: usize) {
        for lease in self.held.claim(jobs, self.now) {
            let answer = self.answers[lane_number(&lease.job)];
            match answer {
                Answer::Hangs => self.hanging.push(lease),
                Answer::Well => {
                    self.world.delivered.push(lease.job.id);
                    self.settle(lease, answer);
                }
                Answer::Fails => self.settle(lease, answer),
            }
        }
        let (ended, hanging) = std::mem::take(&mut self.hanging)
            .into_iter()
            .partition(|lease: &Lease| self.answers[lane_number(&lease.job)] != Answer::Hangs);
        self.hanging = hanging;
        ended.into_iter().for_each(|lease| self.settle(lease, Answer::Fails));
    }

    fn write(&mut self, jobs: usize) {
        for _ in 0..jobs {
            let Some(Aside { entry, past }) = self.writing.pop_front() else { return };
            let offset = i64::try_from(self.world.retry.len()).unwrap();
            self.world.retry.push(((*entry.job).clone(), past));
            let asides = self.held.written(entry.place, Some(&entry), offset, self.now);
            self.put_aside(asides);
        }
    }

    fn commit(&mut self) {
        for (_, log, progress) in self.held.progress() {
            self.world.committed.insert(log, progress);
        }
        self.held.committed(Committed::Yes);
    }

    fn wait(&mut self, seconds: u64) {
        self.now = after(self.now, Duration::from_secs(seconds));
        let asides = self.held.crowding(self.now);
        self.put_aside(asides);
        self.flow();
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Publish(lane, jobs) => {
                let job = || Job { ordered: lane < 2, ..tests::job(&format!("lane-{lane}")) };
                self.world.events.extend((0..jobs).map(|_| job()));
            }
            Step::Read(records) => self.read(records),
            Step::Deliver(jobs) => self.deliver(jobs),
            Step::Become(lane, answer) => self.answers[lane] = answer,
            Step::Wait(seconds) => self.wait(seconds),
            Step::Write(jobs) => self.write(jobs),
            Step::Commit => self.commit(),
            Step::Kill => self.begin(),
        }
    }

    fn is_delivered(&self, job: &Job) -> bool {
        self.world.delivered.contains(&job.id)
    }
}

fn lane_number(job: &Job) -> usize {
    (0..LANES).find(|lane| job.lane == tests::job(&format!("lane-{lane}")).lane).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_lost_and_order_is_kept(steps in proptest::collection::vec(step(), 1..150)) {
        let mut life = Life::new();
        steps.iter().for_each(|step| life.take(step));
        // One of them goes on hanging; the others come back, and get all that is theirs.
        life.answers = [Answer::Hangs, Answer::Well, Answer::Well, Answer::Well];
        let others = |life: &Life| {
            life.world.events.iter().filter(|job| lane_number(job) > 0).all(|job| life.is_delivered(job))
        };
        let mut rounds = 0;
        while !others(&life) {
            rounds += 1;
            prop_assert!(rounds < 2_000, "a lane that hangs holds up others");
            for step in [Step::Read(20), Step::Deliver(20), Step::Write(50), Step::Commit, Step::Wait(10)] {
                life.take(&step);
            }
        }
        life.answers = [Answer::Well; LANES];
        while !life.world.events.iter().all(|job| life.is_delivered(job)) {
            rounds += 1;
            prop_assert!(rounds < 4_000, "something is lost");
            for step in [Step::Read(20), Step::Deliver(20), Step::Write(50), Step::Commit, Step::Wait(10)] {
                life.take(&step);
            }
        }
        for lane in 0..2 {
            let expected: Vec<_> =
                life.world.events.iter().filter(|job| lane_number(job) == lane).map(|job| job.id).collect();
            let mut seen = HashSet::new();
            let came: Vec<_> = life.world.delivered.iter().copied()
                .filter(|id| expected.contains(id) && seen.insert(*id))
                .collect();
            prop_assert_eq!(came, expected);
        }
    }
}
