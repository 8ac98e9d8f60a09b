//! The two spellings of a connection string, taken apart into (parameter, value) pairs. Pure; knows no parameter's
//! meaning. Errors never quote the text, because any part of it may be a piece of a password.
//!
//! The grammar is that of libpq: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>.

use percent_encoding::percent_decode_str;

/// Pairs in the order of the text; a later one overrides an earlier one.
pub(super) type Pairs = Vec<(String, String)>;

/// What is wrong with the text, as a clause without the text.
pub(super) type SyntaxFault = String;

const ENCODE: &str = "in a user name or password write @ as %40, / as %2F, : as %3A, ? as %3F and % as %25";

/// Takes a URI or key=value string apart. A `psql` in front and one pair of quotes around are left out, since consoles
/// print connection strings like that.
pub(super) fn pairs(text: &str) -> Result<Pairs, SyntaxFault> {
    let text = unwrap_shell(text);
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        return uri(rest);
    }
    let scheme_end = text.find("://").filter(|&end| !text[..end].contains([' ', '=', '\'']));
    if scheme_end.is_some() || (!text.is_empty() && !text.contains('=')) {
        return Err("it must begin with postgresql:// or postgres://, or be a list of key=value pairs".into());
    }
    key_values(text)
}

fn unwrap_shell(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix("psql").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(text).trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner.trim();
        }
    }
    text
}

/// `[user[:password]@][host[:port],…][/dbname][?parameter=value&…]`
fn uri(rest: &str) -> Result<Pairs, SyntaxFault> {
    let mut pairs = Pairs::new();
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let hosts_and_more = match rest[..authority_end].find('@') {
        Some(at) => {
            user_info(&rest[..at], &mut pairs)?;
            &rest[at + 1..]
        }
        None => rest,
    };
    let (before_query, query) = split(hosts_and_more, '?');
    let (hosts, dbname) = split(before_query, '/');
    if hosts.contains('@') || dbname.is_some_and(|name| name.contains('@')) {
        return Err(format!("the part before the host is ambiguous: {ENCODE}"));
    }
    host_list(hosts, &mut pairs)?;
    if let Some(dbname) = dbname {
        // `h/db/` would otherwise be a database of the name `db/`. After `h/` a name was meant to follow: empty here.
        if dbname.contains('/') {
            return Err(
                "the database name holds a /: leave it out, or write it as %2F if it belongs to the name".into()
            );
        }
        pairs.push(("dbname".into(), decode(dbname, "the database name")?));
    }
    if let Some(query) = query {
        parameters(query, &mut pairs)?;
    }
    Ok(pairs)
}

/// The text up to the first `at`, and what follows it where there is one.
fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn user_info(text: &str, pairs: &mut Pairs) -> Result<(), SyntaxFault> {
    // A query that holds an @ would otherwise be taken for a user name, and be printed as one.
    if text.split_once('?').is_some_and(|(_, rest)| rest.contains('=')) {
        return Err(format!("an @ follows a ?, which is ambiguous: {ENCODE}, and @ as %40 after the ? too"));
    }
    let (user, password) = split(text, ':');
    pairs.push(("user".into(), decode(user, "the user name")?));
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        pairs.push(("password".into(), decode(password, "the password")?));
    }
    Ok(())
}

/// `host[:port],…`, where a host may be an IPv6 address in brackets or a percent-encoded socket directory.
fn host_list(text: &str, pairs: &mut Pairs) -> Result<(), SyntaxFault> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in text.split(',') {
        let (host, after) = if let Some(rest) = entry.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or("an IPv6 address in brackets lacks its closing ]")?;
            if address.is_empty() {
                return Err("the brackets of an IPv6 address are empty".into());
            }
            (address, after)
        } else {
            entry.split_at(entry.find(':').unwrap_or(entry.len()))
        };
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err("after the ] of an IPv6 address only a :port may follow".into()),
        };
        hosts.push(decode(host, "a host")?);
        ports.push(decode(port, "a port")?);
    }
    for (name, list) in [("host", hosts), ("port", ports)] {
        if list.iter().any(|item| !item.is_empty()) {
            pairs.push((name.into(), list.join(",")));
        }
    }
    Ok(())
}

fn parameters(query: &str, pairs: &mut Pairs) -> Result<(), SyntaxFault> {
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or("a parameter after the ? lacks its =value")?;
        let name = decode(name, "a parameter's name")?;
        let value = decode(value, "a parameter's value")?;
        // The one JDBC spelling that libpq knows.
        match (name.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.push(("sslmode".into(), "require".into())),
            _ => pairs.push((name, value)),
        }
    }
    Ok(())
}

fn decode(text: &str, what: &str) -> Result<String, SyntaxFault> {
    let bytes = text.as_bytes();
    let broken = |(at, _): (usize, &u8)| {
        !(bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit) && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit))
    };
    if bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').any(broken) {
        return Err(format!("{what} holds a % without two hexadecimal digits: write a plain % as %25"));
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| format!("{what} is not UTF-8 once decoded"))?;
    if decoded.contains('\0') {
        return Err(format!("{what} holds a forbidden %00"));
    }
    Ok(decoded.into_owned())
}

/// `key = value …`, where a value may stand in single quotes and `\` takes the next character literally.
fn key_values(text: &str) -> Result<Pairs, SyntaxFault> {
    let mut pairs = Pairs::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|&c| c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next_if_eq(&'=').is_none() {
            return Err("a word is followed by no =: put values that hold spaces in single quotes".into());
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let value = value(&mut rest)?;
        if value.contains('\0') || name.contains('\0') {
            return Err("it holds a NUL character".into());
        }
        pairs.push((name, value));
    }
}

fn value(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, SyntaxFault> {
    let quoted = rest.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match rest.next() {
            Some('\\') => value.extend(rest.next()),
            Some('\'') if quoted => return Ok(value),
            Some(c) if !quoted && c.is_whitespace() => return Ok(value),
            Some(c) => value.push(c),
            None if quoted => return Err("a quoted value lacks its closing quote".into()),
            None => return Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        pairs(text).unwrap()
    }

    fn expect(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(parsed(text), expected, "{text}");
    }

    #[test]
    fn uris() {
        expect("postgresql://", &[]);
        expect("postgres://h", &[("host", "h")]);
        expect("postgres://h:1", &[("host", "h"), ("port", "1")]);
        expect("postgres:///db", &[("dbname", "db")]);
        expect("postgres://u@h/db", &[("user", "u"), ("host", "h"), ("dbname", "db")]);
        expect("postgres://u:p:q@h", &[("user", "u"), ("password", "p:q"), ("host", "h")]);
        expect("postgres://u:a%40b%2Fc@h", &[("user", "u"), ("password", "a@b/c"), ("host", "h")]);
        expect("postgres://u:a?b@h", &[("user", "u"), ("password", "a?b"), ("host", "h")]);
        expect("postgres://a:1,b,c:3/db", &[("host", "a,b,c"), ("port", "1,,3"), ("dbname", "db")]);
        expect("postgres://[::1]:2,[fe80::1]", &[("host", "::1,fe80::1"), ("port", "2,")]);
        // Where a name was meant to stand, it is told that it is missing.
        expect("postgres://h/", &[("host", "h"), ("dbname", "")]);
        expect("postgres://:p@h", &[("user", ""), ("password", "p"), ("host", "h")]);
        expect("postgres://%2Ftmp/db", &[("host", "/tmp"), ("dbname", "db")]);
        expect("postgres:///db?host=/tmp&port=2", &[("dbname", "db"), ("host", "/tmp"), ("port", "2")]);
        expect("postgres://h?ssl=true", &[("host", "h"), ("sslmode", "require")]);
        expect("postgres://h/a%20b", &[("host", "h"), ("dbname", "a b")]);
        expect(
            "postgres://u@h/db?options=-c%20a%3D1",
            &[("user", "u"), ("host", "h"), ("dbname", "db"), ("options", "-c a=1")],
        );
    }

    #[test]
    fn key_value_strings() {
        expect("", &[]);
        expect("host=h port = 5432\tdbname =db", &[("host", "h"), ("port", "5432"), ("dbname", "db")]);
        expect(r"password='a b\'c\\d'", &[("password", r"a b'c\d")]);
        expect(r"password=a\ b", &[("password", "a b")]);
        expect("password='' user=u", &[("password", ""), ("user", "u")]);
        expect("user=u password=postgres://x", &[("user", "u"), ("password", "postgres://x")]);
    }

    #[test]
    fn as_consoles_print_them() {
        expect("psql 'postgresql://u@h/db'", &[("user", "u"), ("host", "h"), ("dbname", "db")]);
        expect("psql \"host=h user=u\"\n", &[("host", "h"), ("user", "u")]);
        expect(" 'host=h' ", &[("host", "h")]);
    }

    #[test]
    fn faults_say_what_to_do_and_quote_nothing() {
        for (text, says) in [
            ("postgres://u:secret@more@h/db", "%40"),
            ("postgres://u:sec/ret@h/db", "%2F"),
            ("postgres://u:secret%zz@h/db", "%25"),
            ("postgres://h?password=secret@more", "%40"),
            ("postgres://u:secret@[::1/db", "]"),
            ("mysql://u:secret@h/db", "postgresql://"),
            ("secret", "postgresql://"),
            ("host=h password='secret", "closing quote"),
            ("password=a secret", "single quotes"),
            ("postgres://u:secret@h/db?x", "=value"),
            ("postgres://u:secret@h/db/", "%2F"),
            ("postgres://u:secret@h/a/b", "%2F"),
        ] {
            let fault = pairs(text).unwrap_err();
            assert!(fault.contains(says), "{text}: {fault}");
            assert!(!fault.contains("secret") && !fault.contains("more"), "{text}: {fault}");
        }
    }
}
