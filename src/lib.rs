//! `whk` delivers webhooks: encrypted with the public key of each customer, at least once, and in order if an endpoint asks
//! for it.
//!
//! # The path of one event
//!
//! ```text
//! POST /publish ── server ── publish ──┬── registry: which endpoints subscribe?
//!                                      ├── envelope: encrypt once per tenant
//!                                      └── queue.push ───────────────────────> 202 with the message ids
//!
//! queue.claim ── dispatch ──┬── registry: the endpoint's current URL and secrets
//!                           ├── deliver: egress guard, signature, POST ───────> customer
//!                           └── retry: verdict ── queue.settle
//! ```
//!
//! Read the files in this order to follow an event:
//!
//! 1. [`server`] takes the HTTP request. It authenticates the caller, applies the limits and parses the body.
//! 2. [`publish`] asks the [`registry`] which endpoints subscribe, and encrypts the payload once per tenant
//!    ([`common::crypto::envelope`]). It makes one [`common::job::Job`] per endpoint.
//! 3. [`queue`] stores the jobs: on disk ([`queue::disk`]), in memory ([`queue::memory`]), in Redis ([`queue::redis`]) or in
//!    Kafka ([`queue::kafka`]). [`queue::lanes`] decides which job is next, and [`queue::throttle`] slows down endpoints
//!    that fail.
//! 4. [`dispatch`] claims jobs and looks up the current URL and secrets of their endpoints. No other module claims jobs
//!    or makes attempts.
//! 5. [`deliver`] makes one attempt: it checks the address, signs the request and sends it.
//! 6. [`common::retry`] turns the outcome into a verdict: done, retry at a certain time, or dead with a cause. The queue
//!    settles the job with it.
//! 7. [`retention`] deletes dead letters that are old enough.
//! 8. [`customer`] is the receiving side. It verifies the signature, decrypts the payload, and prints or forwards it.
//!
//! # Around it
//!
//! - [`cli`] lists the subcommands and [`commands`] implements them. [`exit`] defines the exit codes.
//! - [`common`] holds what several modules need: cryptography, HTTP, ids, metrics and the types of a job.
//! - [`api`] defines the bodies of the HTTP API. [`client`] calls it for `whk tenant`, `whk dlq` and `whk message`.
//! - [`send`] is the load generator behind `whk send`.
//!
//! The feature `kafka`, on by default, adds the clients of Kafka. Without it, stand-ins in files named `without_kafka.rs`
//! refuse to open a queue or a registry in Kafka.

#![cfg_attr(
    not(feature = "kafka"),
    expect(
        dead_code,
        unused_imports,
        reason = "some helpers of the queue and the registry serve only Kafka"
    )
)]

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
