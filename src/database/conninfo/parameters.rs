//! Every connection parameter of libpq, what becomes of it here, and the environment variable that stands in for it.
//! Pure. Values are never quoted in an error; names are.

use std::collections::BTreeMap;

use super::Environment;
use super::syntax::Pairs;
use super::values::Keyword;

/// Faults that are told: where the text is something else altogether, there may be any number.
const MOST_FAULTS: usize = 30;

/// What becomes of a parameter.
enum Support {
    /// It has the meaning that libpq gives it.
    Honoured,
    /// It is accepted and changes nothing, because what it tunes does not exist here.
    Ignored,
    /// Only these values are accepted (they ask for nothing); the rest is refused for the reason that follows.
    Only(&'static [&'static str], &'static str),
    /// Any value but the empty one is refused for this reason.
    Refused(&'static str),
}
use Support::{Honoured, Ignored, Only, Refused};

const NO: &[&str] = &["0", "false", "off", "no"];
const NO_GSS: &str = "GSSAPI is not supported, use a password or a client certificate";
const NO_CRL: &str = "revocation lists are not read, leave it out";
const NO_OAUTH: &str = "OAuth is not supported, use a password or a client certificate";
const NO_SERVICE: &str = "service files are not read, write the service's parameters into the connection string";

/// (name, environment variable, what becomes of it): the list of PostgreSQL 18, section 32.1.2 and 32.15.
const PARAMETERS: &[(&str, Option<&str>, Support)] = &[
    ("host", Some("PGHOST"), Honoured),
    ("hostaddr", Some("PGHOSTADDR"), Honoured),
    ("port", Some("PGPORT"), Honoured),
    ("dbname", Some("PGDATABASE"), Honoured),
    ("user", Some("PGUSER"), Honoured),
    ("password", Some("PGPASSWORD"), Honoured),
    ("passfile", Some("PGPASSFILE"), Honoured),
    ("require_auth", Some("PGREQUIREAUTH"), Refused("the authentication method cannot be pinned, leave it out")),
    ("channel_binding", Some("PGCHANNELBINDING"), Honoured),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Honoured),
    (
        "client_encoding",
        Some("PGCLIENTENCODING"),
        Only(&["auto", "UTF8", "UTF-8", "utf8", "utf-8", "unicode", "UNICODE"], "only UTF8 is supported"),
    ),
    ("options", Some("PGOPTIONS"), Honoured),
    ("application_name", Some("PGAPPNAME"), Honoured),
    ("fallback_application_name", None, Honoured),
    ("keepalives", None, Honoured),
    ("keepalives_idle", None, Honoured),
    ("keepalives_interval", None, Honoured),
    ("keepalives_count", None, Honoured),
    ("tcp_user_timeout", None, Honoured),
    ("replication", None, Only(NO, "replication connections cannot run the workload, leave it out")),
    ("gssencmode", Some("PGGSSENCMODE"), Only(&["disable", "prefer"], NO_GSS)),
    ("sslmode", Some("PGSSLMODE"), Honoured),
    ("requiressl", Some("PGREQUIRESSL"), Only(&["0"], "it is obsolete, write sslmode=require")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Honoured),
    ("sslcompression", Some("PGSSLCOMPRESSION"), Only(&["0"], "TLS is never compressed, leave it out")),
    ("sslcert", Some("PGSSLCERT"), Honoured),
    ("sslkey", Some("PGSSLKEY"), Honoured),
    ("sslkeylogfile", None, Refused("TLS secrets are never written to a file, leave it out")),
    (
        "sslpassword",
        None,
        Refused("encrypted keys are not supported, decrypt the key file (openssl pkey -in KEY -out PLAIN_KEY)"),
    ),
    ("sslcertmode", Some("PGSSLCERTMODE"), Honoured),
    ("sslrootcert", Some("PGSSLROOTCERT"), Honoured),
    ("sslcrl", Some("PGSSLCRL"), Refused(NO_CRL)),
    ("sslcrldir", Some("PGSSLCRLDIR"), Refused(NO_CRL)),
    ("sslsni", Some("PGSSLSNI"), Honoured),
    ("requirepeer", Some("PGREQUIREPEER"), Refused("the owner of a server's socket is not checked, leave it out")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Honoured),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Honoured),
    (
        "min_protocol_version",
        Some("PGMINPROTOCOLVERSION"),
        Only(&["3.0"], "version 3.0 of the Postgres protocol is spoken, leave it out"),
    ),
    (
        "max_protocol_version",
        Some("PGMAXPROTOCOLVERSION"),
        Only(&["3.0", "3.2", "latest"], "version 3.0 of the Postgres protocol is spoken, leave it out"),
    ),
    ("krbsrvname", Some("PGKRBSRVNAME"), Ignored),
    ("gsslib", Some("PGGSSLIB"), Ignored),
    ("gssdelegation", Some("PGGSSDELEGATION"), Only(&["0"], NO_GSS)),
    ("scram_client_key", None, Refused("SCRAM keys are not supported, use the password")),
    ("scram_server_key", None, Refused("SCRAM keys are not supported, use the password")),
    ("service", Some("PGSERVICE"), Refused(NO_SERVICE)),
    ("servicefile", None, Refused(NO_SERVICE)),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Honoured),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Honoured),
    ("oauth_issuer", None, Refused(NO_OAUTH)),
    ("oauth_client_id", None, Refused(NO_OAUTH)),
    ("oauth_client_secret", None, Refused(NO_OAUTH)),
    ("oauth_scope", None, Refused(NO_OAUTH)),
];

/// The value of a parameter and what to call it in an error: its own name, or that of the environment variable.
struct Given {
    value: String,
    label: &'static str,
    from_environment: bool,
}

/// The parameters that were given, and every fault that was found in them so far.
pub(super) struct Parameters {
    given: BTreeMap<&'static str, Given>,
    /// Clauses, each naming its parameter.
    pub(super) faults: Vec<String>,
}

impl Parameters {
    /// Merges the string's pairs with the environment, which fills in what the string does not mention at all.
    pub(super) fn new(pairs: Pairs, environment: &Environment) -> Self {
        let mut this = Self { given: BTreeMap::new(), faults: Vec::new() };
        for (name, variable, _) in PARAMETERS {
            if let Some((value, label)) = variable.and_then(|label| Some((environment.variable(label)?, label))) {
                this.given.insert(name, Given { value: value.to_owned(), label, from_environment: true });
            }
        }
        for (name, value) in pairs {
            match PARAMETERS.iter().find(|(known, ..)| *known == name) {
                Some((name, ..)) => {
                    this.given.insert(name, Given { value, label: name, from_environment: false });
                }
                None => this.note(unknown(&name)),
            }
        }
        this.given.retain(|_, given| !given.value.is_empty());
        this.refuse_unsupported();
        this
    }

    fn refuse_unsupported(&mut self) {
        for (name, _, support) in PARAMETERS {
            let Some(given) = self.given.get(name) else { continue };
            let label = given.label;
            match support {
                Honoured | Ignored => {}
                Only(values, _) if values.contains(&given.value.as_str()) => {}
                Only(values, reason) => self.note(format!("{label} may only be {}: {reason}", or_list(values))),
                Refused(reason) => self.note(format!("{label} is not supported: {reason}")),
            }
        }
    }

    /// The text of a parameter; `None` if it is absent or empty.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        debug_assert!(PARAMETERS.iter().any(|(known, ..)| *known == name));
        self.given.get(name).map(|given| given.value.clone())
    }

    /// Whether the value stands in the environment and not in the string.
    pub(super) fn is_from_environment(&self, name: &str) -> bool {
        self.given.get(name).is_some_and(|given| given.from_environment)
    }

    /// Notes a fault of a parameter, under the name by which it was given.
    pub(super) fn fault(&mut self, name: &'static str, problem: &str) {
        let label = self.given.get(name).map_or(name, |given| given.label);
        self.note(format!("{label} {problem}"));
    }

    /// Notes a fault once, however many hosts or parameters have it.
    fn note(&mut self, fault: String) {
        if self.faults.len() < MOST_FAULTS && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// A word out of a fixed list; its absence and a fault both give `default`.
    pub(super) fn keyword<T: Keyword>(&mut self, name: &'static str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        match T::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
                self.fault(name, &format!("must be {}", or_list(&words)));
                default
            }
        }
    }

    /// An integer, with blanks around it as libpq allows.
    pub(super) fn integer(&mut self, name: &'static str) -> Option<i64> {
        let text = self.text(name)?;
        match text.trim().parse::<i32>() {
            Ok(number) => Some(number.into()),
            Err(_) => {
                self.fault(name, "must be a whole number");
                None
            }
        }
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.text(name).as_deref() {
            None => default,
            Some("0") => false,
            Some("1") => true,
            Some(_) => {
                self.fault(name, "must be 0 or 1");
                default
            }
        }
    }
}

/// A stray piece of a password can end up where a name is expected, so only what looks like a parameter is repeated.
fn unknown(name: &str) -> String {
    let plausible = name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !name.is_empty();
    if plausible {
        format!("{name} is not a connection parameter that is supported: leave it out")
    } else {
        "it holds something that is no connection parameter: if that is a piece of a password, put the password in \
         single quotes (key=value) or percent-encode it (URI)"
            .into()
    }
}

/// `a, b or c`
pub(super) fn or_list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}
