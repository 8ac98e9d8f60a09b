//! Which password is sent to a host, where it stood, and what to do where it is missing or wrong.

use super::{Inner, socket};
use crate::postgres::conninfo::{ConnectionSpec, Host, HostSpec};
use crate::postgres::secret::Secret;

impl Inner {
    pub(super) fn password(&self, host: &HostSpec) -> Option<&Secret> {
        let ConnectionSpec { password, dbname, user, .. } = &self.spec;
        password.as_ref().or_else(|| self.passfile.password(passfile_name(host), host.port, dbname, user))
    }

    pub(super) fn password_remedy(&self, host: &HostSpec) -> String {
        let (password, place) = (self.password(host), &self.spec.place);
        let remedy = match (password, &self.spec.passfile) {
            (Some(_), _) if self.spec.is_password_from_environment => {
                format!("correct PGPASSWORD, or the user in {place}")
            }
            (Some(_), Some(path)) if self.spec.password.is_none() => {
                format!("correct its line in {}, or the user in {place}", path.display())
            }
            (Some(_), _) => {
                format!("correct it or the user in {place}, where special characters of a URL are percent-encoded")
            }
            (None, _) => match self.why_no_password(host) {
                Some(why) => format!("{why}; or set PGPASSWORD, or put it into --postgres-url"),
                None => "set PGPASSWORD, add a line to ~/.pgpass, or put it into --postgres-url".to_owned(),
            },
        };
        // As those of files often do.
        let ends_blank = password.is_some_and(|text| text.expose().ends_with(char::is_whitespace));
        let blank = if ends_blank { "it ends with a blank or a line break; " } else { "" };
        format!("{blank}{remedy}")
    }

    /// Why the password file gave none; nothing where there is no file.
    fn why_no_password(&self, host: &HostSpec) -> Option<String> {
        if let Some(fault) = &self.passfile_fault {
            // In the middle of a sentence.
            return Some(fault.trim_end_matches('.').replacen("The password file", "the password file", 1));
        }
        let ConnectionSpec { dbname, user, passfile, .. } = &self.spec;
        let (path, name, port) = (passfile.as_ref()?.display(), passfile_name(host), host.port);
        (!self.passfile.is_empty()).then(|| format!("no line of {path} is for {name}:{port}:{dbname}:{user}, add one"))
    }
}

/// What `.pgpass` calls the host.
fn passfile_name(host: &HostSpec) -> &str {
    match &host.host {
        Host::Unix(directory) if socket::is_default_directory(directory) => "localhost",
        _ => host.name(),
    }
}
