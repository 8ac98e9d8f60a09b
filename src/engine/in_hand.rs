//! What a worker has in hand: a slot, then a request. Each is accounted for when it is dropped, so also where the worker is
//! ended meanwhile.

use std::cell::RefCell;
use std::rc::Rc;

use crate::clock;
use crate::measure::recorder::{Recorder, Unsettled};
use crate::schedule::Slot;

/// A claimed slot. Unless it is kept, it is handed back when it is dropped: also where the worker is ended meanwhile.
pub(super) struct ClaimedSlot {
    pub(super) slot: Slot,
    recorder: Rc<RefCell<Recorder>>,
    kept: bool,
}

impl ClaimedSlot {
    pub(super) fn new(slot: Slot, recorder: Rc<RefCell<Recorder>>) -> Self {
        Self { slot, recorder, kept: false }
    }

    /// From here on the slot is counted by what becomes of it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ClaimedSlot {
    fn drop(&mut self) {
        if !self.kept {
            self.recorder.borrow_mut().returned_due_ns.push(self.slot.due_ns);
        }
    }
}

/// A request that was handed to a connection. Unless it is settled when it is dropped (also where the worker is ended
/// meanwhile), it may or may not be in the database. Unless it is answered, its worker was busy with it until then.
pub(super) struct InFlight {
    pub(super) request: Unsettled,
    pub(super) recorder: Rc<RefCell<Recorder>>,
    /// When it was sent, on the monotonic clock, nanoseconds.
    pub(super) sent_ns: u64,
    pub(super) is_answered: bool,
    pub(super) is_settled: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.is_answered {
            self.recorder.borrow_mut().abandon(self.sent_ns, clock::now_ns());
        }
        if !self.is_settled {
            self.recorder.borrow_mut().unsettled(self.request);
        }
    }
}
