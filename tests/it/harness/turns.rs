//! Who may run at the same time: most tests side by side, and a few alone, because they take all processors or judge what
//! neighbours would spoil.
//!
//! Every server and every program of the harness calls [`take_part`], so a test need not. The turn belongs to the test's
//! thread and ends with it. Threads that a test starts must not begin with a server or a program of their own: they would
//! wait behind a test that waits for theirs.

use std::cell::RefCell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    /// Tests that run side by side.
    sharing: usize,
    /// Whether a test runs alone.
    is_taken: bool,
    /// Tests that wait to run alone; they go before tests that have not begun.
    waiting: usize,
}

static STATE: Mutex<State> = Mutex::new(State { sharing: 0, is_taken: false, waiting: 0 });
static CHANGED: Condvar = Condvar::new();

enum Turn {
    Shared,
    Alone,
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_while(state: MutexGuard<'static, State>, condition: impl Fn(&State) -> bool) -> MutexGuard<'static, State> {
    CHANGED.wait_while(state, |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = state();
        match self {
            Self::Shared => state.sharing -= 1,
            Self::Alone => state.is_taken = false,
        }
        CHANGED.notify_all();
    }
}

/// This test runs side by side with others, and begins when no test runs alone.
pub fn take_part() {
    TURN.with_borrow_mut(|turn| {
        turn.get_or_insert_with(|| {
            let mut state = wait_while(state(), |state| state.is_taken || state.waiting > 0);
            state.sharing += 1;
            Turn::Shared
        });
    });
}

/// This test runs alone: no other test of this program has a server or a program meanwhile. Called first in a test.
pub fn alone() {
    TURN.with_borrow_mut(|turn| {
        // Where tests have one thread for all of them, the turn of the one before is still held.
        *turn = None;
        let mut state = state();
        state.waiting += 1;
        let mut state = wait_while(state, |state| state.is_taken || state.sharing > 0);
        state.waiting -= 1;
        state.is_taken = true;
        *turn = Some(Turn::Alone);
    });
}
