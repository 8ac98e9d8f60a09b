//! Sessions of others that requests waited for, from looks once a second. Pure.

use super::stats::Blocker;

/// Blockers that are told.
const MOST: usize = 10;

#[derive(Debug, Default)]
pub struct Blockers {
    /// Looks in the measured window, those without anything to see included.
    looks: u64,
    found: Vec<(FoundBlocker, u64)>,
}

/// Who was found to hold what others waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlocker {
    /// 0 for a prepared transaction.
    pub pid: i32,
    pub application_name: String,
    pub user: String,
}

impl Blockers {
    /// Takes what was seen in one look at the measured window.
    pub fn add(&mut self, seen: Vec<FoundBlocker>) {
        self.looks += 1;
        for blocker in seen {
            // A pooler gives one server process several names.
            match self.found.iter_mut().find(|(known, _)| *known == blocker) {
                Some((_, times)) => *times += 1,
                None => self.found.push((blocker, 1)),
            }
        }
    }

    pub fn shares(&self) -> Vec<Blocker> {
        let mut found: Vec<_> = self.found.iter().collect();
        found.sort_by_key(|(blocker, times)| (std::cmp::Reverse(*times), blocker.pid));
        let share = |(blocker, times): &(FoundBlocker, u64)| Blocker {
            pid: blocker.pid,
            application_name: blocker.application_name.clone(),
            user: blocker.user.clone(),
            share_pct: *times as f64 * 100.0 / self.looks as f64,
        };
        found.into_iter().take(MOST).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_looks() {
        let blocker = |pid| FoundBlocker { pid, application_name: "psql".to_owned(), user: "u".to_owned() };
        let mut blockers = Blockers::default();
        assert_eq!(blockers.shares(), []);
        blockers.add(Vec::new());
        blockers.add(vec![blocker(1), blocker(2)]);
        blockers.add(vec![blocker(2)]);
        blockers.add(Vec::new());
        let shares: Vec<_> = blockers.shares().iter().map(|blocker| (blocker.pid, blocker.share_pct)).collect();
        assert_eq!(shares, [(2, 50.0), (1, 25.0)]);
    }
}
