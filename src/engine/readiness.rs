//! Being told by the runtime when a descriptor can be used.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor in the current runtime.
#[expect(
    deprecated,
    reason = "the successor is unsafe for the sake of types that lie about their descriptor; ours do not"
)]
pub(super) fn watch<T: AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}
