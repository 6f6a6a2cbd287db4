//! `whk` delivers webhooks: encrypted with each customer's own key, at least once, in order where asked.
//!
//! # The path of one event
//!
//! ```text
//! POST /publish ─ server ─ publish ── seal ── queue.push ──> 202 with the message ids
//! queue.claim ─ dispatch ─ deliver ── judge ── queue.settle
//! ```
//!
//! 1. [`server`] takes the request: limits, JSON, errors.
//! 2. [`publish`] seals the payload ([`common::crypto::envelope`]) and makes it a [`common::job::Job`].
//! 3. [`queue`] holds it: [`queue::lanes`] says whose turn it is, [`queue::throttle`] who is held back.
//! 4. [`dispatch`] claims it. Only here do queue and network meet.
//! 5. [`deliver`] makes one attempt: egress guard, signature, POST.
//! 6. [`common::retry`] judges the outcome: done, retry at a time, dead with a cause; the queue settles it.
//! 7. [`customer`] is the other side: verify, decrypt, print or forward.
//!
//! [`commands`] holds the subcommands that put these together, [`send`] the load sender.

pub mod api;
pub mod cli;
pub mod client;
pub mod commands;
pub mod common;
pub mod customer;
pub mod deliver;
pub mod dispatch;
pub mod exit;
pub mod publish;
pub mod queue;
pub mod registry;
pub mod send;
pub mod server;
