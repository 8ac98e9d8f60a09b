//! `coordinator merge` from the outside, with results that `load_test` wrote against real servers.

#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod files;
mod kubernetes;
mod refusals;
mod shares;
mod tool;
