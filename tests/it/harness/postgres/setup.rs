//! Which server is started, and how it is configured.

use std::fs;
use std::path::{Path, PathBuf};

use super::{TestServer, template};
use crate::harness::{Program, skipped, take_part};

/// A version of PostgreSQL to test with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The newest that is installed on this machine.
    Installed,
    /// PostgreSQL 18.
    Eighteen,
}

/// The folder with the programs of PostgreSQL 18: `PG18_BINDIR`, or where scripts/test.sh puts them. `None` where
/// `PG18_BINDIR` is `none`, which leaves it out.
///
/// # Panics
/// It is not there.
fn postgres_18() -> Option<PathBuf> {
    let folder = match std::env::var_os("PG18_BINDIR") {
        Some(text) if text == "none" => return None,
        Some(text) => PathBuf::from(text),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("postgres-18").join("bin"),
    };
    let folder = folder.canonicalize().unwrap_or(folder);
    assert!(
        folder.join("postgres").is_file(),
        "PostgreSQL 18 is not in {}: scripts/test.sh puts it there. PG18_BINDIR names another folder with its \
         programs; PG18_BINDIR=none leaves it out",
        folder.display()
    );
    Some(folder)
}

/// The programs of the newest PostgreSQL where Debian and others install it, else those in `PATH`.
fn installed() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.into_iter().rev().map(|(_, folder)| folder).chain(std::env::split_paths(&path));
    all.find(|folder| folder.join("initdb").exists()).expect("PostgreSQL is not installed: run scripts/test.sh")
}

/// psql of that version, without Debian's wrapper around it.
pub fn psql() -> Program {
    Program::new(installed().join("psql"))
}

/// What a server is started with.
#[derive(Clone)]
pub struct Setup {
    pub(super) programs: PathBuf,
    pub(super) has_tables: bool,
    pub(super) addresses: Vec<String>,
    pub(super) password: Option<String>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) hba: Option<String>,
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) folder: Option<PathBuf>,
}

impl Setup {
    pub(super) fn of_programs(programs: PathBuf) -> Self {
        Self {
            programs,
            has_tables: false,
            addresses: Vec::new(),
            password: None,
            settings: Vec::new(),
            hba: None,
            files: Vec::new(),
            folder: None,
        }
    }

    /// The load test's tables are there, logged, as `--setup` makes them.
    pub fn tables(mut self) -> Self {
        self.has_tables = true;
        self
    }

    /// Also on 127.0.0.1, where the superuser needs this password.
    pub fn tcp(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.also_at("127.0.0.1")
    }

    /// Also on another address of this machine.
    pub fn also_at(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// A line of `postgresql.conf`; of two for one setting the later counts.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The text of `pg_hba.conf`.
    pub fn hba(mut self, text: &str) -> Self {
        self.hba = Some(text.to_owned());
        self
    }

    /// A file in the data directory, such as a key, that only the server may read.
    pub fn file(mut self, name: &'static str, text: String) -> Self {
        self.files.push((name, text));
        self
    }

    /// Below this folder, which may be a disk of its own.
    pub fn below(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    pub fn start(self) -> TestServer {
        take_part();
        TestServer::new(self, |setup, data| template::copy(&setup.programs, setup.has_tables, data))
    }
}

impl TestServer {
    /// The installed version, not yet started.
    pub fn setup() -> Setup {
        Setup::of_programs(installed())
    }

    /// A version; `None`, with the reason told, where it is left out.
    pub fn setup_of(version: Version) -> Option<Setup> {
        match version {
            Version::Installed => Some(Self::setup()),
            Version::Eighteen => {
                let folder = postgres_18();
                if folder.is_none() {
                    skipped("PostgreSQL 18 is left out: PG18_BINDIR is none");
                }
                folder.map(Setup::of_programs)
            }
        }
    }
}
