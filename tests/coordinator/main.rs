//! `coordinator` from the outside: real sshd on loopback, a real PostgreSQL, the real `load_test` on every "machine".

#[path = "../support/delay.rs"]
mod delay;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/sshd.rs"]
mod sshd;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tmux.rs"]
mod tmux;

mod clocks;
mod cut_off;
mod early;
mod hostile;
mod interrupts;
mod loss;
mod output;
mod run;
mod screen;
mod secrets;
mod shells;
mod stalls;
mod together;
mod tool;
mod trio;
