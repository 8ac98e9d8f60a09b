//! `load_test --agent` from the outside: real processes, real PostgreSQL, and a coordinator that does as told.

mod driver;
mod gone;
mod refusals;
mod run;
mod secrets;
mod together;
