//! Conformance: dead letters, messages and the history of delivered messages.

use super::*;
use crate::common::retry::{Cause, CauseKind, Failure};
use crate::queue::dead::{DeadFilter, DeadPage};
use crate::queue::message::MessageState;
use crate::queue::{QueueError, tests};

/// Lists the ids of the dead letters that match, and checks their count.
async fn listed(queue: &Arc<dyn Queue>, filter: &DeadFilter) -> Vec<MessageId> {
    let page = queue.dead_letters(filter, None, 100).await.unwrap();
    assert!(!page.more);
    assert_eq!(queue.count_dead(filter).await.unwrap(), page.letters.len() as u64);
    page.letters.iter().map(|letter| letter.id).collect()
}

pub(in crate::queue) async fn dead_letters_are_listed_and_filtered<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let (one, other, endpoint) = (TenantId::new(), TenantId::new(), EndpointId::new());
    let jobs =
        [job_of(one, endpoint), job_of(one, EndpointId::new()), job_of(other, EndpointId::new()), job("a")];
    let died = ids(&jobs);
    let causes = [Cause::Disabled, Cause::Gone, Cause::Exhausted(Failure::TimedOut), Cause::Gone];
    for (job, cause) in jobs.iter().zip(causes) {
        queue.push(vec![job.clone()]).await.unwrap();
        let lease = claim_one(queue).await;
        settle(queue, lease, Verdict::Dead { cause }).await;
        tokio::time::sleep(milliseconds(3)).await;
    }
    assert_eq!(listed(queue, &all_dead()).await, died);
    let of = |change: &dyn Fn(&mut DeadFilter)| {
        let mut filter = all_dead();
        change(&mut filter);
        filter
    };
    assert_eq!(listed(queue, &of(&|filter| filter.tenant = Some(one))).await, died[..2]);
    assert_eq!(listed(queue, &of(&|filter| filter.endpoint = Some(endpoint))).await, died[..1]);
    assert_eq!(listed(queue, &of(&|filter| filter.id = Some(died[2]))).await, died[2..3]);
    assert_eq!(listed(queue, &of(&|filter| filter.id = Some(MessageId::new()))).await, []);
    let gone = of(&|filter| filter.causes = vec![CauseKind::Gone, CauseKind::Blocked]);
    assert_eq!(listed(queue, &gone).await, [died[1], died[3]]);
    let letters = queue.dead_letters(&all_dead(), None, 100).await.unwrap().letters;
    let since = of(&|filter| filter.since = Some(letters[1].died_at));
    assert_eq!(listed(queue, &since).await, died[1..]);
    let between = of(&|filter| {
        filter.since = Some(after(letters[0].died_at, Duration::from_micros(1)));
        filter.until = Some(letters[3].died_at);
    });
    assert_eq!(listed(queue, &between).await, died[1..3]);
    let first = &letters[0];
    assert_eq!((first.cause, first.attempts, first.bytes), (CauseKind::Disabled, 1, 10));
    assert_eq!(first.detail, Cause::Disabled.to_string());
    assert_eq!((&*first.tenant, &first.target), (one.to_string().as_str(), &jobs[0].target));
    assert_eq!((&*letters[3].tenant, &letters[3].target), ("tenant", &jobs[3].target));
    assert_eq!(queue.depth().await.unwrap().dead, 4);
}

pub(in crate::queue) async fn dead_letters_are_paged<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let jobs: Vec<_> = (0..23).map(|number| job(&format!("lane{number}"))).collect();
    let mut died = ids(&jobs);
    queue.push(jobs).await.unwrap();
    // Settled together, so that several have the same time of death.
    while queue.depth().await.unwrap().unsettled() > 0 {
        let leases = claim(queue, 8).await;
        let settlements: Vec<_> = leases
            .into_iter()
            .map(|lease| Settlement { lease, verdict: tests::dead(), attempt: None })
            .collect();
        queue.settle(&settlements).await.unwrap();
    }
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let DeadPage { letters, more } = queue.dead_letters(&all_dead(), after, 5).await.unwrap();
        after = letters.last().map(|letter| letter.cursor());
        paged.extend(letters);
        if !more {
            break;
        }
    }
    assert!(paged.is_sorted_by_key(|letter| letter.cursor()));
    let mut paged: Vec<_> = paged.iter().map(|letter| letter.id).collect();
    paged.sort_unstable();
    died.sort_unstable();
    assert_eq!(paged, died);
}

pub(in crate::queue) async fn a_dead_letter_has_its_body_and_attempts<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let job = Job { body: body(3_000), ..job("a") };
    queue.push(vec![job.clone()]).await.unwrap();
    let lease = claim_one(queue).await;
    settle(queue, lease, retry(harness.clock(), milliseconds(0), EndpointState::Unknown)).await;
    let lease = claim_one(queue).await;
    settle(queue, lease, tests::dead()).await;
    let letter = queue.dead_letter(job.id).await.unwrap().unwrap();
    assert_eq!((letter.body.as_ref(), letter.content_type), (Some(&job.body), job.content_type));
    assert_eq!((letter.attempts, letter.letter.attempts), (vec![attempt(500); 2], 2));
    assert!(queue.dead_letter(MessageId::new()).await.unwrap().is_none());
}

pub(in crate::queue) async fn replayed_jobs_start_over_in_order<H: Harness>() {
    let harness = H::start(ordered()).await;
    let queue = harness.queue();
    let jobs: Vec<_> = (0..5).map(|_| job("a")).collect();
    let died = ids(&jobs);
    for job in jobs {
        bury(queue, vec![job]).await;
        tokio::time::sleep(milliseconds(2)).await;
    }
    let waiting = job("a");
    queue.push(vec![waiting.clone()]).await.unwrap();
    assert_eq!(queue.replay(&all_dead(), 3).await.unwrap(), 3);
    assert_eq!(queue.count_dead(&all_dead()).await.unwrap(), 2);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let lease = claim_one(queue).await;
        assert_eq!(lease.attempt, 1);
        seen.push(lease.job.id);
        done(queue, lease).await;
    }
    assert_eq!(seen, [&[waiting.id], &died[..3]].concat());
    assert_eq!(queue.replay(&all_dead(), 100).await.unwrap(), 2);
    assert_eq!(queue.replay(&all_dead(), 100).await.unwrap(), 0);
    if H::KNOWS_MESSAGES {
        assert_eq!(queue.message(died[4]).await.unwrap().unwrap().state, MessageState::Queued);
    }
}

pub(in crate::queue) async fn a_replay_without_room_changes_nothing<H: Harness>() {
    let harness = H::start(QueueConfig { max_jobs: 2, ..config() }).await;
    let queue = harness.queue();
    bury(queue, vec![job("a"), job("b")]).await;
    queue.push(vec![job("c")]).await.unwrap();
    assert!(matches!(queue.replay(&all_dead(), 100).await, Err(QueueError::Full)));
    assert_eq!(queue.depth().await.unwrap().dead, 2);
    let lease = claim_one(queue).await;
    done(queue, lease).await;
    assert_eq!(queue.replay(&all_dead(), 100).await.unwrap(), 2);
}

pub(in crate::queue) async fn purged_dead_letters_are_deleted<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let tenant = TenantId::new();
    let theirs = job_of(tenant, EndpointId::new());
    bury(queue, vec![job("a"), theirs.clone(), job("b")]).await;
    let of_tenant = DeadFilter { tenant: Some(tenant), ..all_dead() };
    assert_eq!(queue.purge(&of_tenant, 100).await.unwrap(), 1);
    assert!(queue.dead_letter(theirs.id).await.unwrap().is_none());
    assert!(queue.message(theirs.id).await.unwrap().is_none());
    assert_eq!(queue.count_dead(&of_tenant).await.unwrap(), 0);
    assert_eq!(queue.purge(&all_dead(), 1).await.unwrap(), 1);
    assert_eq!(queue.depth().await.unwrap().dead, 1);
}

pub(in crate::queue) async fn dead_letters_survive_a_restart<H: Harness>() {
    let mut harness = H::start(config()).await;
    if !H::DURABLE {
        return;
    }
    let job = job_of(TenantId::new(), EndpointId::new());
    bury(harness.queue(), vec![job.clone()]).await;
    let before = harness.queue().dead_letters(&all_dead(), None, 10).await.unwrap();
    harness.reopen().await;
    assert_eq!(harness.queue().dead_letters(&all_dead(), None, 10).await.unwrap(), before);
    let letter = harness.queue().dead_letter(job.id).await.unwrap().unwrap();
    assert_eq!((letter.body, letter.attempts.len()), (Some(job.body), 1));
}

pub(in crate::queue) async fn messages_have_a_state_and_attempts<H: Harness>() {
    let harness = H::start(config()).await;
    let queue = harness.queue();
    let job = job_of(TenantId::new(), EndpointId::new());
    assert!(queue.message(job.id).await.unwrap().is_none());
    queue.push(vec![job.clone()]).await.unwrap();
    let known = queue.message(job.id).await.unwrap().unwrap();
    assert_eq!((known.id, &known.tenant, &known.target), (job.id, &job.tenant, &job.target));
    assert_eq!((known.published_at, known.state), (job.published_at, MessageState::Queued));
    assert_eq!(known.attempts, []);
    for round in 1..=12 {
        let lease = claim_one(queue).await;
        settle(queue, lease, retry(harness.clock(), milliseconds(0), EndpointState::Unknown)).await;
        let known = queue.message(job.id).await.unwrap().unwrap();
        assert_eq!((known.attempts.len(), known.state), (round.min(10), MessageState::Queued));
    }
    let lease = claim_one(queue).await;
    let last = attempt(204);
    queue.settle(&[Settlement { lease, verdict: Verdict::Done, attempt: Some(last.clone()) }]).await.unwrap();
    let known = queue.message(job.id).await.unwrap().unwrap();
    assert_eq!((known.state, known.attempts.len()), (MessageState::Delivered, 10));
    assert_eq!((known.attempts.last(), known.target), (Some(&last), job.target));
    let dead = self::job("dead");
    bury(queue, vec![dead.clone()]).await;
    let known = queue.message(dead.id).await.unwrap().unwrap();
    assert_eq!(known.state, MessageState::Dead(CauseKind::Disabled));
    let dropped = self::job("dropped");
    queue.push(vec![dropped.clone()]).await.unwrap();
    let lease = claim_one(queue).await;
    settle(queue, lease, Verdict::Dropped).await;
    assert!(queue.message(dropped.id).await.unwrap().is_none());
}

pub(in crate::queue) async fn history_is_bounded<H: Harness>() {
    let harness = H::start(QueueConfig { history: 3, ..config() }).await;
    let queue = harness.queue();
    let jobs: Vec<_> = (0..5).map(|_| job("a")).collect();
    let delivered = ids(&jobs);
    for job in jobs {
        queue.push(vec![job]).await.unwrap();
        let lease = claim_one(queue).await;
        done(queue, lease).await;
    }
    let mut known = Vec::new();
    for id in &delivered {
        known.push(queue.message(*id).await.unwrap().is_some());
    }
    assert_eq!(known, [false, false, true, true, true]);
}
