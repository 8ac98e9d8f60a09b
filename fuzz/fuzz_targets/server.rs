//! What a server sends while a request is under way: the framing of its messages, and its errors.
#![no_main]

use std::cell::RefCell;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::Stream;
use postgres_load_test::testing::Outgoing;
use postgres_load_test::testing::Wire;
use postgres_load_test::testing::Failure;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    let failure = Failure::of_server(bytes);
    assert!(failure.message.len() < 20_000 && failure.class.len() < 100);
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            Builder::new_current_thread().enable_io().build().unwrap_or_else(|error| panic!("no runtime: {error}"))
        });
        runtime.block_on(async {
            let Ok((mut theirs, ours)) = std::os::unix::net::UnixStream::pair() else { return };
            // More than the socket takes would wait for a reader for ever.
            if bytes.len() > 64 << 10 || theirs.write_all(bytes).is_err() || ours.set_nonblocking(true).is_err() {
                return;
            }
            if theirs.shutdown(std::net::Shutdown::Write).is_err() {
                return;
            }
            let Ok(ours) = UnixStream::from_std(ours) else { return };
            let Ok(mut wire) = Wire::new(Stream::Unix(ours)) else { return };
            let mut tags = 0;
            for _ in 0..3 {
                let answer = wire.exchange(Outgoing::plain(b"question"), |_, tag| tags += tag.len()).await;
                assert!(answer.completed <= bytes.len());
            }
            wire.until_ended().await;
            assert!(tags <= 3 * bytes.len());
        });
    });
});
