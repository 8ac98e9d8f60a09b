//! Which password is sent to a host, and where it stood.

use std::path::{Path, PathBuf};

use super::error::PasswordOrigin;
use super::{Inner, socket};
use crate::postgres::conninfo::{ConnectionSpec, Host, HostSpec, PasswordSource};
use crate::postgres::secret::Secret;

impl Inner {
    /// The password for a host, and where it stood.
    pub(super) fn password(&self, host: &HostSpec) -> (Option<&Secret>, PasswordOrigin) {
        let spec = &self.spec;
        if let Some(password) = &spec.password {
            let origin = match spec.password_source {
                PasswordSource::ConnectionString => PasswordOrigin::ConnectionString,
                PasswordSource::Environment => PasswordOrigin::Environment,
            };
            return (Some(password), origin);
        }
        let name = match &host.host {
            Host::Default => "localhost",
            Host::Unix(directory) if socket::is_default_directory(directory) => "localhost",
            Host::Unix(name) | Host::Tcp(name) => name,
        };
        let found = self.passfile.password(name, host.port, &spec.dbname, &spec.user);
        match (found, &spec.passfile) {
            (Some(password), Some(path)) => (Some(password), PasswordOrigin::Passfile(PathBuf::clone(path))),
            (None, Some(path)) => (None, PasswordOrigin::None(self.why_no_password(path, name, host.port))),
            (_, None) => (None, PasswordOrigin::None(None)),
        }
    }

    /// Why the password file gave none; nothing where there is no file.
    fn why_no_password(&self, path: &Path, name: &str, port: u16) -> Option<String> {
        if let Some(fault) = &self.passfile_fault {
            // In the middle of a sentence.
            return Some(fault.trim_end_matches('.').replacen("The password file", "the password file", 1));
        }
        let ConnectionSpec { dbname, user, .. } = &self.spec;
        let path = path.display();
        (!self.passfile.is_empty()).then(|| format!("no line of {path} is for {name}:{port}:{dbname}:{user}, add one"))
    }
}
