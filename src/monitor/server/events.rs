//! Checkpoints, autovacuum and restarts, from looks once a second. Pure. Times are seconds after T0.

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
            self.end_checkpoint(now_s, None);
            return;
        }
        let busy_s = (counts.busy_ms - before.busy_ms) / 1e3;
        let has_begun = counts.timed + counts.requested > before.timed + before.requested;
        let has_ended = busy_s > 0.0;
        if has_ended && self.checkpoint.is_some() {
            self.end_checkpoint(now_s, Some(busy_s));
        }
        if has_begun {
            self.end_checkpoint(now_s, None);
            let detail = if counts.requested > before.requested { "requested" } else { "timed" };
            let started_s = if has_ended { (now_s - busy_s).max(0.0) } else { now_s };
            let kind = ServerEventKind::Checkpoint;
            self.checkpoint = Some(ServerEvent { started_s, seconds: 0.0, kind, detail: detail.to_owned() });
            if has_ended {
                self.end_checkpoint(now_s, Some(busy_s));
            }
        }
    }

    /// `busy_s` is how long it took by the server's own account.
    fn end_checkpoint(&mut self, now_s: f64, busy_s: Option<f64>) {
        if let Some(mut event) = self.checkpoint.take() {
            event.seconds = busy_s.unwrap_or(0.0).max(now_s - event.started_s);
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

    /// The server was started anew; it gave no answer from `started_s` on.
    pub fn see_restart(&mut self, started_s: f64, now_s: f64) {
        self.end_checkpoint(started_s, None);
        self.see_vacuums(started_s, &[]);
        self.checkpoints = None;
        let seconds = now_s - started_s;
        self.keep(ServerEvent { started_s, seconds, kind: ServerEventKind::Restart, detail: String::new() });
    }

    fn keep(&mut self, event: ServerEvent) {
        if self.ended.len() < MOST {
            self.ended.push(event);
        }
    }

    /// All of them in the order of time; those that have not ended are as long as they were seen.
    pub fn until(&self, now_s: f64) -> Vec<ServerEvent> {
        let open = self.checkpoint.iter().chain(&self.vacuums).cloned().map(|mut event| {
            event.seconds = (now_s - event.started_s).max(0.0);
            event
        });
        let mut events: Vec<ServerEvent> = self.ended.iter().cloned().chain(open).collect();
        events.sort_by(|a, b| a.started_s.total_cmp(&b.started_s));
        events
    }
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
