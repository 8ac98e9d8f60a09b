//! The map of the crate (to be completed).

pub mod database;
