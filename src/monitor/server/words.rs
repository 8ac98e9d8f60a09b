//! Wait events in words for people. Pure.

use std::borrow::Cow;

/// A session that is active and waits for nothing; no name of the server's.
pub const CPU: &str = "CPU";

/// A session in a transaction that waits for its client; no name of the server's.
pub const IDLE_IN_TRANSACTION: &str = "idle in transaction";

/// Sessions at work whose name is not the load's, whatever they do; no name of the server's.
pub const OTHER_APPLICATIONS: &str = "other applications";

/// A short word or two for an event of [`super::WaitEvent`]. Events that mean the same to a reader share a word: names
/// differ between versions of PostgreSQL. An event without a word keeps its name.
pub fn words(event: &str) -> Cow<'static, str> {
    let (kind, name) = event.split_once(':').unwrap_or((event, ""));
    let (kind, name) = (kind.to_ascii_lowercase(), name.to_ascii_lowercase());
    Cow::Borrowed(match (kind.as_str(), name.as_str()) {
        ("cpu", _) => CPU,
        (IDLE_IN_TRANSACTION, _) | ("client", _) => "client",
        ("lock", "transactionid" | "tuple") => "row locks",
        ("lock", "relation") => "table locks",
        ("lock", "extend") | ("io", "datafileextend") => "table growth",
        ("lock", "advisory") => "advisory locks",
        ("lock", _) => "locks",
        ("io", "walsync" | "walwrite" | "walsyncmethodassign") | ("lwlock", "walwrite" | "walwritelock") => "WAL flush",
        ("io", "walinitsync" | "walinitwrite" | "walinitzero") => "new WAL files",
        ("lwlock", "walinsert" | "wal_insert" | "walbufmapping" | "walbufmappinglock") => "WAL insert",
        ("lwlock", "buffercontent" | "buffer_content") | ("buffer" | "bufferpin", _) => "hot pages",
        ("lwlock", "buffermapping" | "buffer_mapping") => "buffer mapping",
        ("io", "datafileread" | "datafileprefetch") => "disk reads",
        ("io", "datafilewrite" | "datafilesync" | "datafileflush" | "datafileimmediatesync") => "disk writes",
        ("ipc", "syncrep" | "sync_rep") => "standby",
        ("timeout", "vacuumdelay") => "vacuum delay",
        ("timeout", "pgsleep") => "sleep",
        (_, "") => return Cow::Owned(event.to_owned()),
        _ => return Cow::Owned(event.split_once(':').map_or(event, |(_, name)| name).to_owned()),
    })
}

/// The word with the most sessions, and its share, such as `row locks 56%`; `None` where no session was at work.
pub fn top<'a>(sessions: impl IntoIterator<Item = (&'a str, u64)>) -> Option<String> {
    let mut by_word: Vec<(Cow<'static, str>, u64)> = Vec::new();
    let mut total: u64 = 0;
    for (event, count) in sessions {
        total += count;
        let word = words(event);
        match by_word.iter_mut().find(|(known, _)| *known == word) {
            Some((_, sum)) => *sum += count,
            None => by_word.push((word, count)),
        }
    }
    // Of equals the first in the alphabet, so that the line does not flicker.
    by_word.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let (word, count) = by_word.into_iter().next().filter(|(_, count)| *count > 0)?;
    Some(format!("{word} {:.0}%", count as f64 * 100.0 / total as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_all_versions_have_their_words() {
        for (event, expected) in [
            (CPU, "CPU"),
            (IDLE_IN_TRANSACTION, "client"),
            ("Client:ClientRead", "client"),
            ("Lock:transactionid", "row locks"),
            ("Lock:tuple", "row locks"),
            ("Lock:relation", "table locks"),
            ("Lock:extend", "table growth"),
            ("Lock:virtualxid", "locks"),
            ("IO:DataFileExtend", "table growth"),
            ("IO:WALSync", "WAL flush"),
            ("IO:WalSync", "WAL flush"),
            ("LWLock:WALWrite", "WAL flush"),
            ("LWLock:WALInsert", "WAL insert"),
            ("LWLock:BufferContent", "hot pages"),
            ("BufferPin:BufferPin", "hot pages"),
            ("IO:DataFileRead", "disk reads"),
            ("IPC:SyncRep", "standby"),
            ("LWLock:ProcArray", "ProcArray"),
            ("other", "other"),
            (OTHER_APPLICATIONS, "other applications"),
            ("Extension:", "Extension:"),
        ] {
            assert_eq!(words(event), expected, "{event}");
        }
    }

    #[test]
    fn the_top_is_the_sum_of_events_that_share_a_word() {
        let sample = [("CPU", 4), ("Lock:transactionid", 3), ("Lock:tuple", 3)];
        assert_eq!(top(sample).as_deref(), Some("row locks 60%"));
        assert_eq!(top([("LWLock:ProcArray", 1), ("CPU", 1)]).as_deref(), Some("CPU 50%"));
        assert_eq!(top([]), None);
        assert_eq!(top([("CPU", 0)]), None);
    }
}
