//! `whk` delivers webhooks: encrypted with each customer's own key, at least once, in order where asked.
//!
//! # The path of one event
//!
//! ```text
//! POST /publish ─ server ─ publish ─ registry: who subscribes? ─ seal ─ queue.push ──> 202 with the message ids
//! queue.claim ─ dispatch ─ registry: where is it now? ─ deliver ─ judge ─ queue.settle
//! ```
//!
//! 1. [`server`] takes the request: who asks, limits, JSON, errors.
//! 2. [`publish`] asks the [`registry`] who subscribes, seals the payload once a tenant ([`common::crypto::envelope`])
//!    and makes it a [`common::job::Job`] an endpoint.
//! 3. [`queue`] holds them, on disk ([`queue::disk`]), in Redis ([`queue::redis`]), in Kafka ([`queue::kafka`]) or in memory: [`queue::lanes`] says whose
//!    turn it is, [`queue::throttle`] who is held back.
//! 4. [`dispatch`] claims one, and asks the registry where its endpoint is now. Only here do queue and network meet.
//! 5. [`deliver`] makes one attempt: egress guard, signature, POST.
//! 6. [`common::retry`] judges the outcome: done, retry at a time, dead with a cause; the queue settles it.
//!    [`retention`] deletes the dead when they are old.
//! 7. [`customer`] is the other side: verify, decrypt, print or forward.
//!
//! [`api`] holds the bodies of the HTTP API, which [`client`] speaks for `whk tenant`, `whk dlq` and `whk message`.
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
pub mod retention;
pub mod send;
pub mod server;
