//! `service=` and `PGSERVICE`: parameters that stand in a file under a name. Owns the file's format as libpq reads it:
//! <https://www.postgresql.org/docs/current/libpq-pgservice.html>. Pure. Values are never repeated in an error.

use super::environment::{Environment, ServiceFile};
use super::syntax::{Pairs, SyntaxFault};

/// The parameters of a service, from the first file that has it.
pub(super) fn find(name: &str, environment: &Environment) -> Result<Pairs, SyntaxFault> {
    for ServiceFile { path, text } in &environment.service_files {
        let path = path.display();
        let text = text.as_ref().map_err(|why| format!("the service file {path} cannot be used: {why}"))?;
        match of_file(text, name) {
            Ok(Some(pairs)) => return Ok(pairs),
            Ok(None) => {}
            Err((line, what)) => return Err(format!("the service file {path} cannot be used: line {line} {what}")),
        }
    }
    let files: Vec<_> = environment.service_files.iter().map(|file| file.path.display().to_string()).collect();
    Err(match &files[..] {
        [] => "there is no service file: ~/.pg_service.conf, or the one that PGSERVICEFILE names".to_owned(),
        files => format!("no such service is in {}", files.join(" or ")),
    })
}

/// The parameters under `[name]`; `None` where there is no such section. Of several values of one parameter the first
/// counts.
fn of_file(text: &str, name: &str) -> Result<Option<Pairs>, (usize, &'static str)> {
    let mut found: Option<Pairs> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = section.strip_prefix(name).filter(|rest| rest.starts_with(']')).map(|_| Pairs::new());
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let fault = |what| Err((number + 1, what));
        if line.starts_with("ldap") {
            return fault("asks an LDAP server, which is not supported");
        }
        let Some((key, value)) = line.split_once('=') else { return fault("is not of the form parameter=value") };
        if matches!(key, "service" | "servicefile") {
            return fault("names another service, which libpq does not allow either");
        }
        if pairs.iter().all(|(known, _)| known != key) {
            pairs.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\nhost=outside\n[first]\nhost=a\n  port=1  \nhost=b\n\n[second]\ndbname = x\n[third]\nhost\n\
                        [nested]\nservice=first\n[ldap]\nldap://h\n[first]\nhost=again\n";

    #[test]
    fn a_section_is_read_as_libpq_reads_it() {
        let pairs = |name| of_file(FILE, name).map(Option::unwrap_or_default);
        let expected = [("host", "a"), ("port", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(pairs("first"), Ok(expected.to_vec()));
        // Blanks belong to the name, and there is no such parameter.
        assert_eq!(pairs("second"), Ok(vec![("dbname ".to_owned(), " x".to_owned())]));
        assert_eq!(of_file(FILE, "fir"), Ok(None));
        assert_eq!(of_file(FILE, "absent"), Ok(None));
        for (name, line) in [("third", 11), ("nested", 13), ("ldap", 15)] {
            assert_eq!(of_file(FILE, name).unwrap_err().0, line, "{name}");
        }
    }
}
