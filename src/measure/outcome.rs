//! What became of a request, and why: database errors sorted into a bounded set of classes by SQLSTATE.
//!
//! Knows the server's messages, not the engine. An example of each class is kept word for word (shortened), never more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a request ended. "Ok" means that its COMMIT was acknowledged, and nothing less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT acknowledged.
    Ok,
    /// The transaction is known not to have committed.
    Failed(Failure),
    /// The connection died after COMMIT may have been sent: it may or may not be in the database.
    Unknown(Failure),
}

/// An error with the class that it counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Five characters, where the server sent the error.
    pub sqlstate: Option<String>,
    /// What the class is called.
    pub class: String,
    /// The error's own words.
    pub message: String,
    /// Whether the connection is of no use any more.
    pub connection_lost: bool,
}

/// Characters of a server's message that are kept. One may be a megabyte long, and each class keeps one.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// Characters of the name of a class.
const MAX_CLASS_CHARS: usize = 60;

/// The class of [`Failure::protocol`].
const PROTOCOL: &str = "protocol error";

/// Five letters or digits; a server that sends something else names no class of errors.
const UNREADABLE_STATE: &str = "?????";

impl Failure {
    /// Sorts an error that the server sent: the body of an ErrorResponse, which is fields of a letter and a text each
    /// (PostgreSQL's documentation, "Error and Notice Message Fields").
    pub fn of_server(body: &[u8]) -> Self {
        let field = |letter: u8| {
            let text = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[letter]))?;
            // No character has more bytes than four, so that none of those that are kept is cut.
            let text = String::from_utf8_lossy(&text[..text.len().min(4 * MAX_MESSAGE_CHARS + 4)]);
            Some(text.chars().take(MAX_MESSAGE_CHARS).collect::<String>())
        };
        // In English; before PostgreSQL 9.6 there is only the one in the server's language.
        let severity = field(b'V').or_else(|| field(b'S')).unwrap_or_default();
        let connection_lost = matches!(&*severity, "FATAL" | "PANIC");
        let state = readable_state(&field(b'C').unwrap_or_default()).to_owned();
        let class = sqlstate_name(&state).map_or_else(|| format!("SQLSTATE {state}"), str::to_owned);
        let detail = field(b'D').map(|detail| format!(" ({detail})")).unwrap_or_default();
        // `is_panic` reads the severity.
        let message = format!("{severity}: {}{detail}", field(b'M').unwrap_or_default());
        Self { sqlstate: Some(state), class, message, connection_lost }
    }

    /// Whether the whole server went down with this error.
    pub fn is_panic(&self) -> bool {
        self.sqlstate.is_some() && self.message.starts_with("PANIC: ")
    }

    /// Whether the server sent it, and with a code that names an error.
    pub fn has_readable_state(&self) -> bool {
        self.sqlstate.as_deref().is_some_and(|state| state != UNREADABLE_STATE)
    }

    /// Whether the same transaction may succeed when it is tried again: a serialization failure or a deadlock, as
    /// pgbench's `--max-tries` has it.
    pub fn is_worth_a_retry(&self) -> bool {
        !self.connection_lost && matches!(self.sqlstate.as_deref(), Some("40001" | "40P01"))
    }

    /// Sorts the error with which a socket ended.
    pub fn of_socket(error: &std::io::Error) -> Self {
        Self::own(&format!("connection lost ({})", io_class(error.kind())), chain(error), true)
    }

    /// The server closed the connection without a word.
    pub fn closed() -> Self {
        Self::own("connection lost (closed by the server)", "connection closed".to_owned(), true)
    }

    /// The server, or what stands before it, does not keep to the protocol.
    pub fn protocol(message: String) -> Self {
        Self::own(PROTOCOL, message, true)
    }

    /// Whether it is one of [`Failure::protocol`]: the connection was ended by this side.
    pub fn is_protocol(&self) -> bool {
        self.class == PROTOCOL
    }

    /// An error that this program itself raises, of a class of its own.
    pub fn own(class: &str, message: String, connection_lost: bool) -> Self {
        // Some classes name what a server called its error.
        let class = class.chars().filter(|c| !c.is_control()).take(MAX_CLASS_CHARS).collect();
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self { sqlstate: None, class, message, connection_lost }
    }
}

/// What a server sent as its SQLSTATE, where it is one.
pub fn readable_state(state: &str) -> &str {
    let is_state = state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_state { state } else { UNREADABLE_STATE }
}

/// The texts of an error and of all its causes, `: ` between them. A cause that stands in the text before it is left out,
/// since many errors repeat their source. So is the driver's "db error", before every error that the server sent.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        next = error.source();
        if text.is_empty() || text == "db error" {
            text = part;
        } else if !text.contains(part.trim_end_matches('.')) {
            text = format!("{text}: {part}");
        }
    }
    text
}

fn io_class(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::ConnectionReset => "reset",
        Kind::BrokenPipe => "broken pipe",
        Kind::TimedOut => "timed out",
        Kind::UnexpectedEof => "closed by the server",
        Kind::HostUnreachable | Kind::NetworkUnreachable => "unreachable",
        _ => "I/O error",
    }
}

/// Names of the conditions that a load test is likely to meet (PostgreSQL's appendix A).
fn sqlstate_name(state: &str) -> Option<&'static str> {
    Some(match state {
        "08003" | "08006" | "08P01" => "connection exception",
        "22P02" | "22P05" => "invalid text",
        "23502" => "not-null violation",
        "23505" => "unique violation",
        "23514" => "check violation",
        "25006" => "read-only transaction",
        "25P02" => "transaction already aborted",
        "25P03" => "idle-in-transaction timeout",
        "26000" => "prepared statement missing",
        "28000" | "28P01" => "authentication failed",
        "3D000" => "database missing",
        "40001" => "serialization failure",
        "40P01" => "deadlock",
        "42501" => "permission denied",
        "42703" => "column missing",
        "42P01" => "table missing",
        "42P05" => "prepared statement already there",
        "53100" => "disk full",
        "53200" => "out of memory",
        "53300" => "too many connections",
        "53400" => "configuration limit exceeded",
        "55P03" => "lock not available",
        "57014" => "statement timeout or cancelled",
        "57P01" => "terminated by an administrator",
        "57P02" => "server crashed",
        "57P03" => "server starting up or shutting down",
        "58030" => "server I/O error",
        _ => return None,
    })
}

/// A class of errors with its count, as reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorCount {
    /// What the program was doing.
    pub origin: ErrorOrigin,
    /// Name of the class.
    pub class: String,
    /// Five characters; `null` if the server did not send the errors.
    pub sqlstate: Option<String>,
    /// How many errors of this class there were.
    pub count: u64,
    /// Text of the first one.
    pub example: String,
    /// When the first one came, seconds after T0; `null` in documents of older builds.
    #[serde(default)]
    pub first_s: Option<f64>,
    /// When the last one came, seconds after T0; `null` in documents of older builds.
    #[serde(default)]
    pub last_s: Option<f64>,
}

/// What the program was doing when the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ErrorOrigin {
    /// running a request of the measured window, counted as failed or unknown;
    Request,
    /// running a request of the warm-up;
    Warmup,
    /// a connection died between requests, or could not be replaced;
    Connection,
    /// running a request that was then tried again (`--max-tries`).
    Retry,
}

/// Counts errors by class. However many kinds of error there are, its size stays bounded.
#[derive(Clone, Debug, Default)]
pub struct ErrorTable {
    classes: BTreeMap<(ErrorOrigin, String, Option<String>), Class>,
}

#[derive(Clone, Debug, Default)]
struct Class {
    count: u64,
    example: String,
    /// When the first and the last of them came, microseconds after T0: as seconds they have so few digits that every
    /// reader of JSON finds the same number.
    times_us: Option<(u64, u64)>,
}

impl ErrorTable {
    const MAX_CLASSES: usize = 64;
    const MAX_EXAMPLE_CHARS: usize = 300;

    /// Counts one error that came `at_ns` after T0. True where it is the first of its class.
    pub fn add(&mut self, origin: ErrorOrigin, failure: &Failure, at_ns: u64) -> bool {
        let example = failure.message.chars().take(Self::MAX_EXAMPLE_CHARS).collect();
        let counted = Class { count: 1, example, times_us: Some((at_ns / 1_000, at_ns / 1_000)) };
        self.count((origin, failure.class.clone(), failure.sqlstate.clone()), counted)
    }

    /// Adds counts that were taken elsewhere.
    pub fn merge(&mut self, counts: &[ErrorCount]) {
        let us = |seconds: f64| (seconds * 1e6).round() as u64;
        for count in counts {
            let key = (count.origin, count.class.clone(), count.sqlstate.clone());
            let example = count.example.chars().take(Self::MAX_EXAMPLE_CHARS).collect();
            let times_us = count.first_s.map(us).zip(count.last_s.map(us));
            self.count(key, Class { count: count.count, example, times_us });
        }
    }

    fn count(&mut self, key: (ErrorOrigin, String, Option<String>), further: Class) -> bool {
        let full = self.classes.len() >= Self::MAX_CLASSES && !self.classes.contains_key(&key);
        let key = if full { (key.0, "other".to_owned(), None) } else { key };
        let is_new = !self.classes.contains_key(&key);
        let Class { count, example, times_us } = further;
        let class = self.classes.entry(key).or_insert(Class { count: 0, example, times_us: None });
        // Counts of other VMs may be anything.
        class.count = class.count.saturating_add(count);
        let times_us = class.times_us.into_iter().chain(times_us);
        class.times_us = times_us.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        is_new
    }

    /// Takes the counts away. The classes stay known, so that their next error is not news.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let emptied = |class: &Class| Class { example: class.example.clone(), ..Class::default() };
        let emptied = self.classes.iter().map(|(key, class)| (key.clone(), emptied(class))).collect();
        std::mem::replace(self, Self { classes: emptied })
    }

    /// How many errors of one origin there were.
    pub fn of(&self, origin: ErrorOrigin) -> u64 {
        let counts = self.classes.iter().filter(|((of, ..), _)| *of == origin).map(|(_, class)| class.count);
        counts.fold(0, u64::saturating_add)
    }

    /// All classes that were counted, the most frequent first.
    pub fn counts(&self) -> Vec<ErrorCount> {
        let mut counts: Vec<ErrorCount> = self
            .classes
            .iter()
            .filter(|(_, counted)| counted.count > 0)
            .map(|((origin, class, sqlstate), counted)| ErrorCount {
                origin: *origin,
                class: class.clone(),
                sqlstate: sqlstate.clone(),
                count: counted.count,
                example: counted.example.clone(),
                first_s: counted.times_us.map(|(first_us, _)| first_us as f64 / 1e6),
                last_s: counted.times_us.map(|(_, last_us)| last_us as f64 / 1e6),
            })
            .collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_read_from_its_message() {
        let refused = Failure::of_server(b"SERROR\0VERROR\0C23505\0Mduplicate key\0Dthe key (id)=(1)\0Fnbt.c\0\0");
        assert_eq!(refused.sqlstate.as_deref(), Some("23505"));
        assert_eq!((&*refused.class, refused.connection_lost), ("unique violation", false));
        assert_eq!(refused.message, "ERROR: duplicate key (the key (id)=(1))");
        for fatal in [&b"SSCHWERWIEGEND\0VFATAL\0C57P01\0Mend\0\0"[..], b"SFATAL\0C57P01\0Mend\0\0"] {
            assert!(Failure::of_server(fatal).connection_lost);
        }
        // Neither text that is not UTF-8 nor a message without fields is a reason to panic.
        assert_eq!(Failure::of_server(b"M\xff\0C1\xfe\0").class, "SQLSTATE ?????");
        assert_eq!(Failure::of_server(b"").message, ": ");
    }

    #[test]
    fn a_cause_stands_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(String, #[source] Option<Box<Layer>>);
        let of = |texts: &[&str]| {
            let wrap = |inner: Option<Box<Layer>>, text: &&str| Some(Box::new(Layer((*text).to_owned(), inner)));
            chain(&*texts.iter().rev().fold(None, wrap).unwrap())
        };
        assert_eq!(of(&["--output: no such file", "no such file"]), "--output: no such file");
        assert_eq!(of(&["cannot open x", "no such file", "no such file"]), "cannot open x: no such file");
        assert_eq!(of(&["it failed (no such file): try y", "no such file."]), "it failed (no such file): try y");
        assert_eq!(of(&["db error", "ERROR: x\nHINT: y"]), "ERROR: x\nHINT: y");
        assert_eq!(of(&["a", "b", "c"]), "a: b: c");
    }

    #[test]
    fn a_server_cannot_fill_the_memory_with_its_errors() {
        let endless = [b"C", &b"4".repeat(1 << 20)[..], b"\0M", "ü".repeat(1 << 19).as_bytes(), b"\0\0"].concat();
        let failure = Failure::of_server(&endless);
        assert_eq!((failure.sqlstate.as_deref(), &*failure.class), (Some("?????"), "SQLSTATE ?????"));
        assert!(failure.message.ends_with('ü') && failure.message.chars().count() <= 1_002, "{}", failure.message);
    }

    #[test]
    fn classes_stay_bounded_and_no_error_is_lost() {
        let mut table = ErrorTable::default();
        for i in 0..1_000 {
            table.add(ErrorOrigin::Request, &Failure::own(&format!("class {i}"), "x".repeat(10_000), false), i);
        }
        let counts = table.counts();
        assert!(counts.len() <= ErrorTable::MAX_CLASSES + 1);
        assert_eq!(counts.iter().map(|c| c.count).sum::<u64>(), 1_000);
        assert_eq!(counts[0].class, "other");
        assert!(counts.iter().all(|c| c.example.len() <= ErrorTable::MAX_EXAMPLE_CHARS));
    }

    #[test]
    fn merging_equals_counting_together() {
        // In the order of their counts; microseconds.
        let times = [(1, 1_234_567), (2, 86_400_000_001), (1, 7_654_321), (3, 3_000_000), (2, 2_000), (1, 987)];
        let failure = |class: i32| Failure::own(&format!("class {class}"), "why".to_owned(), false);
        let failures: Vec<(u64, Failure)> = times.map(|(class, us)| (us * 1_000, failure(class))).into();
        let table_of = |failures: &[(u64, Failure)]| {
            let mut table = ErrorTable::default();
            for (at_ns, failure) in failures {
                table.add(ErrorOrigin::Connection, failure, *at_ns);
            }
            table
        };
        for split in 0..failures.len() {
            let mut merged = table_of(&failures[..split]);
            // On the way through a document nothing is lost.
            let counts = serde_json::to_string(&table_of(&failures[split..]).counts()).unwrap();
            merged.merge(&serde_json::from_str::<Vec<ErrorCount>>(&counts).unwrap());
            assert_eq!(merged.counts(), table_of(&failures).counts());
        }
        let all = table_of(&failures).counts();
        let times: Vec<_> = all.iter().map(|count| (&*count.class, count.first_s, count.last_s)).collect();
        let expected = [("class 1", 0.000_987, 7.654_321), ("class 2", 0.002, 86_400.000_001), ("class 3", 3.0, 3.0)];
        assert_eq!(times, expected.map(|(class, first, last)| (class, Some(first), Some(last))));
    }

    /// Documents of older builds tell no times; they are neither refused nor taken for the beginning.
    #[test]
    fn unknown_times_stay_unknown() {
        let old = r#"{"origin": "request", "class": "a", "sqlstate": null, "count": 2, "example": "e"}"#;
        let old: ErrorCount = serde_json::from_str(old).unwrap();
        let mut table = ErrorTable::default();
        table.merge(&[old]);
        assert_eq!((table.counts()[0].first_s, table.counts()[0].last_s), (None, None));
        table.add(ErrorOrigin::Request, &Failure::own("a", "e".to_owned(), false), 1_500_000_000);
        assert_eq!((table.counts()[0].first_s, table.counts()[0].last_s), (Some(1.5), Some(1.5)));
    }

    #[test]
    fn what_is_taken_has_its_own_times() {
        let (mut table, failure) = (ErrorTable::default(), Failure::own("a", "e".to_owned(), false));
        table.add(ErrorOrigin::Request, &failure, 1_000_000_000);
        let first = table.take();
        table.add(ErrorOrigin::Request, &failure, 3_000_000_000);
        let times = |table: &ErrorTable| (table.counts()[0].first_s, table.counts()[0].last_s);
        assert_eq!((times(&first), times(&table)), ((Some(1.0), Some(1.0)), (Some(3.0), Some(3.0))));
    }

    proptest::proptest! {
        #[test]
        fn no_message_of_a_server_does_harm(body: Vec<u8>, tail in "[VSCMD]\\PC{0,20}") {
            let body = [&body[..], b"\0", tail.as_bytes()].concat();
            let failure = Failure::of_server(&body);
            proptest::prop_assert_eq!(failure.sqlstate.map(|state| state.len()), Some(5));
        }
    }

    #[test]
    fn only_the_first_of_a_class_is_news() {
        let mut table = ErrorTable::default();
        let failure = Failure::own("full", "disk".to_owned(), false);
        assert!(table.add(ErrorOrigin::Request, &failure, 1));
        assert!(!table.add(ErrorOrigin::Request, &failure, 2));
    }
}
