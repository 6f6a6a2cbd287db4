//! End to end: the real binary, real sockets, real signals.

mod cli;
mod customer;
mod delivery;
mod drain;
mod interop;
mod publish;
mod support;
mod tls;
