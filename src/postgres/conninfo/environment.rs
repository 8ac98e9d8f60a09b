//! What the process's surroundings contribute to a connection string: variables, the home directory, the user's name and
//! the service files. [`Environment::of_process`] alone reads any of it; the rest is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variables that say where the database is, and as whom to log in. Where one of them is set and no connection
/// string is given, libpq's defaults apply, as with psql.
const TARGET_VARIABLES: [&str; 8] =
    ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGPASSFILE", "PGSERVICE"];

/// Where builds of libpq look for `pg_service.conf` unless `PGSYSCONFDIR` says so: Debian, Red Hat, a build of one's own.
const SYSTEM_CONFIGURATION: [&str; 4] =
    ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc", "/usr/local/etc/postgresql"];

/// A service file is a page or two. More than this is not one.
const MOST_SERVICE_FILE_BYTES: u64 = 1 << 20;

/// The `PG…` variables, the home directory, the user's name, and the service files.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names of variables that are set to something that is not UTF-8.
    unreadable: BTreeSet<String>,
    /// Where `.pgpass` and `.postgresql/` are looked for.
    pub home: Option<PathBuf>,
    /// The operating system's name for the user, the default of `user`.
    pub os_user: Option<String>,
    /// Whether `DATABASE_URL` is set, which is not read.
    pub has_database_url: bool,
    /// The files to search for a service, in order.
    pub(super) service_files: Vec<ServiceFile>,
}

#[derive(Clone, Debug)]
pub(super) struct ServiceFile {
    pub(super) path: PathBuf,
    pub(super) text: Result<String, String>,
}

impl Environment {
    pub fn of_process() -> Self {
        let mut this = Self {
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            os_user: whoami::username().ok().filter(|name| !name.is_empty()),
            has_database_url: std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty()),
            ..Self::default()
        };
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("PG")) else { continue };
            match value.into_string() {
                Ok(value) => _ = this.variables.insert(name.to_owned(), value),
                Err(_) => _ = this.unreadable.insert(name.to_owned()),
            }
        }
        this.service_files = service_files(this.home.as_deref(), |name| std::env::var_os(name));
        this
    }

    pub fn of_user(name: &str) -> Self {
        Self { os_user: Some(name.to_owned()), ..Self::default() }
    }

    /// The home directory and the user's name alone: for a connection string in which everything else has been said.
    pub fn without_variables(self) -> Self {
        Self { home: self.home, os_user: self.os_user, ..Self::default() }
    }

    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// The same with variables that are set to something that is not UTF-8.
    pub fn with_unreadable(mut self, variables: &[String]) -> Self {
        self.unreadable.extend(variables.iter().cloned());
        self
    }

    #[cfg(test)]
    /// The same with one more service file, as if it were `~/.pg_service.conf`.
    pub fn with_service_file(mut self, path: &Path, text: &str) -> Self {
        self.service_files.push(ServiceFile { path: path.to_owned(), text: Ok(text.to_owned()) });
        self
    }

    /// The value of one of the `PG…` variables.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Whether a variable is set to something that is not UTF-8.
    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(name)
    }

    /// The variables that say where the database is, or as whom to log in: those that are set.
    pub fn target_variables(&self) -> Vec<&'static str> {
        let is_set = |name: &&str| self.variables.contains_key(*name) || self.unreadable.contains(*name);
        TARGET_VARIABLES.into_iter().filter(is_set).collect()
    }
}

/// Names the variables, and nothing that stands in them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .field("os_user", &self.os_user)
            .finish_non_exhaustive()
    }
}

/// The files that libpq would search: the one that `PGSERVICEFILE` names, which has to be there, else that of the user;
/// then that of the system.
fn service_files(home: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<ServiceFile> {
    let of_user = home.map(|home| home.join(".pg_service.conf")).filter(|path| path.exists());
    let first = variable("PGSERVICEFILE").map(PathBuf::from).or(of_user);
    let of_system = match variable("PGSYSCONFDIR") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => SYSTEM_CONFIGURATION.map(PathBuf::from).to_vec(),
    };
    let of_system = of_system.into_iter().map(|folder| folder.join("pg_service.conf")).filter(|path| path.exists());
    first.into_iter().chain(of_system).map(|path| ServiceFile { text: read(&path), path }).collect()
}

fn read(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MOST_SERVICE_FILE_BYTES {
        return Err("it is not a plain file of up to 1 MB".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_files_are_searched_in_libpqs_order() {
        let folder = tempfile::tempdir().unwrap();
        let [home, system] = ["home", "system"].map(|name| folder.path().join(name));
        for path in [&home, &system] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(home.join(".pg_service.conf"), "user").unwrap();
        std::fs::write(system.join("pg_service.conf"), "system").unwrap();
        let found = |chosen: Option<&Path>| {
            let variable = |name: &str| match name {
                "PGSERVICEFILE" => chosen.map(OsString::from),
                "PGSYSCONFDIR" => Some(system.clone().into()),
                _ => None,
            };
            let texts: Vec<_> = service_files(Some(&home), variable).into_iter().map(|file| file.text).collect();
            texts
        };
        assert_eq!(found(None), [Ok("user".to_owned()), Ok("system".to_owned())]);
        assert_eq!(found(Some(&system.join("pg_service.conf"))), [Ok("system".to_owned()), Ok("system".to_owned())]);
        assert!(
            matches!(&found(Some(&folder.path().join("absent")))[..], [Err(why), Ok(_)] if why.contains("No such file"))
        );
        assert!(matches!(&found(Some(folder.path()))[..], [Err(why), Ok(_)] if why.contains("plain file")));
    }
}
