//! `coordinator` from the outside: real sshd on loopback, a real PostgreSQL, the real `load_test` on every "machine".

mod clocks;
mod cut_off;
mod early;
mod fleet;
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
mod trio;
