//! Processes, HTTP clients and misbehaving customers for the tests, a file for each subject.

pub(crate) mod api;
pub(crate) mod broker;
pub(crate) mod customer;
pub(crate) mod dead_letters;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod services;
pub(crate) mod wait;

pub(crate) use api::{Api, Tenant, message_ids};
pub(crate) use customer::{FAILS, NOWHERE, OK, RawCustomer, Request};
pub(crate) use http::{Answer, exchange, get, post, publish, publish_to, read_answer};
pub(crate) use process::{fixture, own_port, run, stderr, whk};
pub(crate) use redis::Redis;
pub(crate) use server::Server;
pub(crate) use services::redis_url;
pub(crate) use wait::{PATIENCE, wait_until};
