//! `load_test`'s end of a test on many machines: orders come in on standard input, events go out on standard output.

pub mod protocol;
