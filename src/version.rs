//! Which program this is.

/// What `--version` prints: the version, and which sources it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (build ", env!("POSTGRES_LOAD_TEST_BUILD"), ")");

/// Names the sources that this program was built from; the same for every architecture. Only results of one build merge.
pub const BUILD: &str = env!("POSTGRES_LOAD_TEST_BUILD");
