//! The integration tests: one program, linked once, whose tests run side by side. Each folder is a topic; what they share
//! is in [`harness`].

mod harness;
mod library;

mod agent;
mod connect;
mod coordinator;
mod docker;
mod ephemeral;
mod faults;
mod generator;
mod html;
mod load_test;
mod merge;
mod server_stats;
mod ssh;
