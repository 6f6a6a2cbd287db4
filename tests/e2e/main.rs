//! End to end: the real binary, real sockets, real signals.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that can't go on panics"
)]

mod api {
    mod dead_letters;
    mod endpoint_changes;
    mod fan_out;
    mod publish;
}

mod cli {
    mod commands;
    mod customer;
    mod dlq;
    mod kafka_setup;
    mod keygen;
    mod tenant;
}

mod queue {
    mod delivery;
    mod disk;
    mod drain;
    mod kafka;
    mod kafka_partitions;
    mod kafka_torture;
    mod redis;
    mod torture;
}

mod registry {
    mod kafka;
    mod management;
    mod redis;
}

mod security {
    mod hostile_input;
    mod interop;
    mod isolation;
    mod tls;
}

mod support;
