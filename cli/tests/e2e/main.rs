//! The real daemon in its own process, as applications, operators and
//! accidents meet it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod callers;
mod canary;
mod disk_full;
mod door;
mod kill;
mod memory;
mod notify;
mod rotate;
mod sandbox;
mod snippets;
mod starts;
mod support;
mod trust;
mod unit;
mod wire;
