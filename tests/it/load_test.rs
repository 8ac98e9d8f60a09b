//! The `load_test` program against real servers, from the outside: its output, its exit code, the rows it leaves.

mod accounting;
mod causes;
mod data;
mod environment;
mod faults;
mod files;
mod interrupts;
mod marks;
mod output;
mod own_side;
mod pooler;
mod role;
mod schema;
mod screen;
mod stalls;
mod unverified;
mod usage;
mod verify;
