//! `~/.pgpass`: which password belongs to which server. Owns the file's format and libpq's rule that nobody else may
//! read it. Knows nothing of connections. Faults are warnings, as with libpq: a file that cannot be used is ignored.
//!
//! The format: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::secret::Secret;

#[derive(Debug, Clone, Default)]
pub struct Passfile {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Host, port, database, user; `None` stands for `*`.
    patterns: [Option<String>; 4],
    password: Secret,
}

impl Passfile {
    /// Reads the file. A missing one is empty; one that cannot be used is empty too, with a warning that says why.
    pub fn load(path: &Path) -> (Self, Option<String>) {
        let ignored = |why: &str| {
            (Self::default(), Some(format!("The password file {} was ignored, because {why}.", path.display())))
        };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return (Self::default(), None);
            }
            Err(error) => return ignored(&format!("it cannot be read: {error}")),
        };
        if !metadata.is_file() {
            return ignored("it is not a plain file");
        }
        if metadata.mode() & 0o077 != 0 {
            return ignored("others may read it: chmod 600 it");
        }
        match std::fs::read(path) {
            Ok(bytes) => (Self::parse(&String::from_utf8_lossy(&bytes)), None),
            Err(error) => ignored(&format!("it cannot be read: {error}")),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads lines of `host:port:database:user:password`. Comments and lines of another form are skipped.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line));
        Self { entries: lines.filter(|line| !line.starts_with('#')).filter_map(entry).collect() }
    }

    /// The password of the first entry that matches. `host` is `localhost` for the default socket directory.
    pub fn password(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<&Secret> {
        let wanted = [host, &port.to_string(), dbname, user];
        let matches = |entry: &&Entry| {
            let mut pairs = entry.patterns.iter().zip(wanted);
            pairs.all(|(pattern, value)| pattern.as_ref().is_none_or(|pattern| pattern == value))
        };
        self.entries.iter().find(matches).map(|entry| &entry.password)
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut rest = line.chars();
    let mut patterns = [const { None }; 4];
    for pattern in &mut patterns {
        *pattern = field(&mut rest)?;
    }
    Some(Entry { patterns, password: Secret::new(unescape(rest.as_str())) })
}

/// The text up to the next `:`. The outer `None` is a line that ends too early, the inner one a bare `*`.
fn field(rest: &mut std::str::Chars<'_>) -> Option<Option<String>> {
    if let Some(after) = rest.as_str().strip_prefix("*:") {
        *rest = after.chars();
        return Some(None);
    }
    let mut text = String::new();
    loop {
        match rest.next()? {
            ':' => return Some(Some(text)),
            '\\' => text.push(rest.next()?),
            c => text.push(c),
        }
    }
}

/// An unescaped `:` in the password ends it, as with libpq.
fn unescape(text: &str) -> String {
    let mut password = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next().filter(|c| *c != ':') {
        if c == '\\' { password.extend(rest.next()) } else { password.push(c) }
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FILE: &str = "# comment\n\
        db.example:5432:app:me:first\r\n\
        nonsense\n\
        ::1:5432:a:b:c\n\
        \\:\\:1:5432:*:me:six\n\
        *:6432:*:*:pool\\:ed\\\\\n\
        db.example:*:*:*:any\n\
        localhost:*:\\*:me:star\n";

    #[test]
    fn first_match_wins() {
        let file = Passfile::parse(FILE);
        for (host, port, dbname, user, expected) in [
            ("db.example", 5432, "app", "me", Some("first")),
            ("db.example", 5432, "other", "me", Some("any")),
            ("db.example", 6432, "app", "me", Some("pool:ed\\")),
            ("::1", 5432, "x", "me", Some("six")),
            ("localhost", 1, "x", "me", None),
            ("localhost", 1, "*", "me", Some("star")),
            ("elsewhere", 5432, "app", "me", None),
        ] {
            let found = file.password(host, port, dbname, user).map(Secret::expose);
            assert_eq!(found, expected, "{host}:{port}:{dbname}:{user}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        assert!(matches!(Passfile::load(&path), (file, None) if file.entries.is_empty()));
        std::fs::write(&path, "*:*:*:*:hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (file, warning) = Passfile::load(&path);
        assert!(file.entries.is_empty());
        let warning = warning.unwrap();
        assert!(warning.contains("chmod 600") && !warning.contains("hunter2"), "{warning}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (file, warning) = Passfile::load(&path);
        assert_eq!((file.entries.len(), warning), (1, None));
        assert!(!format!("{file:?}").contains("hunter2"));
    }
}
