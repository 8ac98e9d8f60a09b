//! Checkpoints, autovacuum and restarts, from looks once a second. Pure. Times are seconds after T0, negative before it.
//!
//! Looks before T0 are needed to tell what is new after it. What had ended by then is no part of the run, and what still
//! went on is shown from T0 on.

use super::stats::{ServerEvent, ServerEventKind};

/// Events that are kept, so that the document stays small.
const MOST: usize = 200;

#[derive(Debug, Default)]
pub struct Events {
    ended: Vec<ServerEvent>,
    checkpoints: Option<CheckpointCounts>,
    checkpoint: Option<ServerEvent>,
    /// Tables that are vacuumed now.
    vacuums: Vec<ServerEvent>,
}

/// Counters of `pg_stat_checkpointer` since the last reset. A checkpoint is counted when it begins, and its times when it
/// has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckpointCounts {
    pub timed: u64,
    pub requested: u64,
    /// Time spent writing and in fsync, milliseconds.
    pub busy_ms: f64,
}

impl Events {
    pub fn see_checkpoints(&mut self, now_s: f64, counts: CheckpointCounts) {
        let before = self.checkpoints.replace(counts);
        let Some(before) = before else { return };
        if counts.timed < before.timed || counts.requested < before.requested || counts.busy_ms < before.busy_ms {
            // The counters were reset.
            self.end_checkpoint(now_s);
            return;
        }
        let busy_s = (counts.busy_ms - before.busy_ms) / 1e3;
        let has_begun = counts.timed + counts.requested > before.timed + before.requested;
        let has_ended = busy_s > 0.0;
        let detail = match () {
            // It began before the first look, so nothing tells why.
            () if !has_begun => "",
            () if counts.requested > before.requested => "requested",
            () => "timed",
        };
        let begin = |started_s| {
            let kind = ServerEventKind::Checkpoint;
            Some(ServerEvent { started_s, seconds: 0.0, kind, detail: detail.to_owned() })
        };
        if has_ended {
            // The time belongs to the one that was running, and what began since the last look still runs.
            let begins_next = has_begun && self.checkpoint.is_some();
            let mut event = self.checkpoint.take().or_else(|| begin(now_s));
            event.iter_mut().for_each(|event| event.started_s = event.started_s.min(now_s - busy_s));
            self.checkpoint = event;
            self.end_checkpoint(now_s);
            if begins_next {
                self.checkpoint = begin(now_s);
            }
        } else if has_begun {
            self.end_checkpoint(now_s);
            self.checkpoint = begin(now_s);
        }
    }

    fn end_checkpoint(&mut self, now_s: f64) {
        if let Some(mut event) = self.checkpoint.take() {
            event.seconds = now_s - event.started_s;
            self.keep(event);
        }
    }

    /// Takes the names of the tables that autovacuum works on now.
    pub fn see_vacuums(&mut self, now_s: f64, tables: &[String]) {
        let (going_on, mut ended): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.vacuums).into_iter().partition(|event| tables.contains(&event.detail));
        ended.iter_mut().for_each(|event| event.seconds = now_s - event.started_s);
        ended.into_iter().for_each(|event| self.keep(event));
        self.vacuums = going_on;
        for table in tables {
            if !self.vacuums.iter().any(|event| event.detail == *table) {
                let kind = ServerEventKind::Autovacuum;
                self.vacuums.push(ServerEvent { started_s: now_s, seconds: 0.0, kind, detail: table.clone() });
            }
        }
    }

    /// The server was started anew, or another one answers; there was no answer from `started_s` on.
    pub fn see_restart(&mut self, started_s: f64, now_s: f64) {
        self.end_checkpoint(started_s);
        self.see_vacuums(started_s, &[]);
        self.checkpoints = None;
        let seconds = now_s - started_s;
        self.keep(ServerEvent { started_s, seconds, kind: ServerEventKind::Restart, detail: String::new() });
    }

    fn keep(&mut self, event: ServerEvent) {
        if self.ended.len() < MOST {
            self.ended.extend(after_t0(event));
        }
    }

    /// All of them in the order of time; those that have not ended are as long as they were seen.
    pub fn until(&self, now_s: f64) -> Vec<ServerEvent> {
        let open = self.checkpoint.iter().chain(&self.vacuums).cloned().filter_map(|mut event| {
            event.seconds = (now_s - event.started_s).max(0.0);
            after_t0(event)
        });
        let mut events: Vec<ServerEvent> = self.ended.iter().cloned().chain(open).collect();
        events.sort_by(|a, b| a.started_s.total_cmp(&b.started_s));
        events
    }
}

/// The part of an event that is after T0.
fn after_t0(mut event: ServerEvent) -> Option<ServerEvent> {
    let ended_s = event.started_s + event.seconds;
    if event.started_s < 0.0 {
        event.started_s = 0.0;
        event.seconds = ended_s;
    }
    (ended_s >= 0.0).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(timed: u64, requested: u64, busy_ms: f64) -> CheckpointCounts {
        CheckpointCounts { timed, requested, busy_ms }
    }

    fn event(started_s: f64, seconds: f64, kind: ServerEventKind, detail: &str) -> ServerEvent {
        ServerEvent { started_s, seconds, kind, detail: detail.to_owned() }
    }

    #[test]
    fn checkpoints_begin_with_their_count_and_end_with_their_times() {
        use ServerEventKind::Checkpoint;
        let mut events = Events::default();
        for (now_s, counts) in [
            (1.0, counts(3, 3, 500.0)),
            (2.0, counts(4, 3, 500.0)),
            (3.0, counts(4, 3, 500.0)),
            (4.0, counts(4, 3, 2_300.0)),
            // One that was over before the next look.
            (5.0, counts(4, 4, 2_700.0)),
            (6.0, counts(4, 5, 2_700.0)),
        ] {
            events.see_checkpoints(now_s, counts);
        }
        assert_eq!(
            events.until(8.0),
            [
                event(2.0, 2.0, Checkpoint, "timed"),
                event(4.6, 5.0 - 4.6, Checkpoint, "requested"),
                event(6.0, 2.0, Checkpoint, "requested"),
            ]
        );
        // A reset ends what was seen until then, and nothing is made of lower figures.
        events.see_checkpoints(9.0, counts(0, 0, 0.0));
        assert_eq!(events.until(20.0).len(), 3);
        assert_eq!(events.until(20.0)[2].seconds, 3.0);
    }

    #[test]
    fn a_checkpoint_that_follows_at_once_runs_on_and_the_first_one_is_there_once() {
        use ServerEventKind::Checkpoint;
        let mut events = Events::default();
        for (now_s, counts) in [
            (0.0, counts(3, 3, 500.0)),
            (1.0, counts(4, 3, 500.0)),
            // The first one has ended, and the second one has begun.
            (4.0, counts(4, 4, 3_400.0)),
            (9.0, counts(4, 4, 8_300.0)),
        ] {
            events.see_checkpoints(now_s, counts);
        }
        let found = events.until(10.0);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], event(1.0, 3.0, Checkpoint, "timed"));
        assert_eq!(found[1], event(4.0, 5.0, Checkpoint, "requested"));
    }

    #[test]
    fn a_checkpoint_that_ran_before_the_first_look_begins_when_the_server_says() {
        use ServerEventKind::Checkpoint;
        let of = |at_s: [f64; 2], busy_ms: f64| {
            let mut events = Events::default();
            events.see_checkpoints(at_s[0], counts(3, 3, 500.0));
            events.see_checkpoints(at_s[1], counts(3, 3, 500.0 + busy_ms));
            events.until(20.0)
        };
        assert_eq!(of([3.0, 8.0], 6_000.0), [event(2.0, 6.0, Checkpoint, "")]);
        assert_eq!(of([3.0, 8.0], 60_000.0), [event(0.0, 8.0, Checkpoint, "")]);
    }

    #[test]
    fn what_ended_before_t0_is_no_part_of_the_run() {
        use ServerEventKind::{Autovacuum, Checkpoint};
        let mut events = Events::default();
        let a = ["a".to_owned()];
        events.see_checkpoints(-3.0, counts(3, 3, 500.0));
        events.see_vacuums(-3.0, &a);
        events.see_checkpoints(-2.0, counts(4, 3, 700.0));
        events.see_checkpoints(-1.0, counts(4, 4, 700.0));
        events.see_restart(-0.5, -0.25);
        events.see_vacuums(-0.25, &a);
        events.see_checkpoints(-0.25, counts(0, 0, 0.0));
        assert_eq!(events.until(-0.25), []);
        events.see_checkpoints(1.0, counts(0, 1, 0.0));
        events.see_vacuums(2.0, &[]);
        assert_eq!(events.until(3.0), [event(0.0, 2.0, Autovacuum, "a"), event(1.0, 2.0, Checkpoint, "requested")]);
    }

    #[test]
    fn vacuums_are_as_long_as_they_are_seen_and_restarts_end_them() {
        use ServerEventKind::{Autovacuum, Restart};
        let mut events = Events::default();
        let [a, b] = ["a", "b"].map(str::to_owned);
        events.see_vacuums(1.0, std::slice::from_ref(&a));
        events.see_vacuums(2.0, &[a.clone(), b.clone()]);
        events.see_vacuums(4.0, &[b]);
        events.see_restart(5.0, 7.0);
        assert_eq!(
            events.until(9.0),
            [event(1.0, 3.0, Autovacuum, "a"), event(2.0, 3.0, Autovacuum, "b"), event(5.0, 2.0, Restart, ""),]
        );
    }
}
