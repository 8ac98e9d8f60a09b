//! The `load_test` program against real servers, from the outside: its output, its exit code, the rows it leaves.

#[path = "../support/mod.rs"]
mod support;

mod accounting;
mod causes;
mod data;
mod environment;
mod faults;
mod interrupts;
mod output;
mod own_side;
mod pooler;
mod role;
mod schema;
mod tool;
mod usage;
mod verify;
