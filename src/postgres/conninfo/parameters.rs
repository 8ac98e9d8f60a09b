//! Every connection parameter of libpq, what becomes of it here, and the environment variable that stands in for it.
//! Pure. Values are never quoted in an error; names are.

use std::collections::BTreeMap;

use super::Environment;
use super::syntax::Pairs;
use super::values::Keyword;

/// Faults that are told: where the text is something else altogether, there may be any number.
const MOST_FAULTS: usize = 30;

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

/// Parameters that say where the database is. An empty one is a value that somebody meant to fill in.
const NEVER_EMPTY: [&str; 6] = ["host", "hostaddr", "port", "user", "dbname", "service"];

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
    ("service", Some("PGSERVICE"), Honoured),
    ("servicefile", None, Refused("name the file in PGSERVICEFILE")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Honoured),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Honoured),
    ("oauth_issuer", None, Refused(NO_OAUTH)),
    ("oauth_client_id", None, Refused(NO_OAUTH)),
    ("oauth_client_secret", None, Refused(NO_OAUTH)),
    ("oauth_scope", None, Refused(NO_OAUTH)),
];

/// Where a value stood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    String,
    Service,
    Environment,
}

/// The value of a parameter and what to call it in an error: its own name, or that of the environment variable.
struct Given {
    value: String,
    label: &'static str,
    origin: Origin,
}

/// The parameters that were given, and every fault that was found in them so far.
pub(super) struct Parameters {
    given: BTreeMap<&'static str, Given>,
    /// Clauses, each naming its parameter.
    pub(super) faults: Vec<String>,
}

impl Parameters {
    /// Merges the string's pairs with those of its service, and with the environment; each fills in what those before it
    /// do not mention at all.
    pub(super) fn new(pairs: Pairs, environment: &Environment) -> Self {
        let mut this = Self { given: BTreeMap::new(), faults: Vec::new() };
        for (name, value) in pairs {
            match known(&name) {
                Some(name) => _ = this.given.insert(name, Given { value, label: name, origin: Origin::String }),
                None => this.note(unknown(&name)),
            }
        }
        let is_empty = |name: &&str| this.given.get(name).is_some_and(|given| given.value.is_empty());
        let empty: Vec<&'static str> = NEVER_EMPTY.into_iter().filter(is_empty).collect();
        empty.iter().for_each(|name| _ = this.given.remove(name));
        this.add_service(environment);
        for (name, variable, _) in PARAMETERS {
            if let Some(variable) = variable.filter(|_| !this.given.contains_key(name)) {
                this.add_variable(name, variable, environment);
            }
        }
        for name in empty {
            if !this.given.contains_key(name) {
                let remedy = match name {
                    "dbname" => "name the database, or leave out the / behind the host",
                    _ => "give it a value, or leave it out",
                };
                this.note(format!("{name} is empty (a variable that is not set?): {remedy}"));
            }
        }
        this.given.retain(|_, given| !given.value.is_empty());
        this.refuse_unsupported();
        this
    }

    fn add_service(&mut self, environment: &Environment) {
        let (name, label) = match self.given.get("service") {
            Some(given) => (given.value.clone(), "service"),
            None => match environment.variable("PGSERVICE") {
                Some(name) if !name.is_empty() => (name.to_owned(), "PGSERVICE"),
                // What is wrong with the variable is told with the others.
                _ => return,
            },
        };
        let pairs = match super::service::find(&name, environment) {
            Ok(pairs) => pairs,
            Err(problem) => return self.note(format!("{label} cannot be looked up: {problem}")),
        };
        for (name, value) in pairs {
            match known(&name) {
                Some(name) => {
                    let given = Given { value, label: name, origin: Origin::Service };
                    self.given.entry(name).or_insert(given);
                }
                None => self.note(format!("the service of {label} holds a line with no parameter of that name")),
            }
        }
    }

    /// An empty variable is a secret or setting that is missing. libpq would take its default instead.
    fn add_variable(&mut self, name: &'static str, variable: &'static str, environment: &Environment) {
        match environment.variable(variable) {
            Some("") => self.note(format!("{variable} is set but empty (a secret that is missing?)")),
            Some(value) => {
                let given = Given { value: value.to_owned(), label: variable, origin: Origin::Environment };
                self.given.insert(name, given);
            }
            None if environment.is_unreadable(variable) => {
                self.note(format!("{variable} is not UTF-8"));
            }
            None => {}
        }
    }

    /// Where host, port, user and database stand, for a sentence: "correct it in …".
    pub(super) fn place(&self) -> String {
        let parts = ["host", "hostaddr", "port", "user", "dbname"].map(|name| self.given.get(name));
        let mut places: Vec<&str> = Vec::new();
        for given in parts.into_iter().flatten() {
            match given.origin {
                Origin::String => places.push("--postgres-url"),
                Origin::Service => places.push("the service file"),
                Origin::Environment => places.push(given.label),
            }
        }
        places.dedup();
        if places.is_empty() || places.contains(&"--postgres-url") {
            return "--postgres-url".to_owned();
        }
        or_list(&places)
    }

    /// All of them as a key=value string, without a password of the environment's and the service that named them.
    pub(super) fn to_text(&self) -> String {
        let stays = |name: &str, given: &Given| {
            name != "service" && (name != "password" || given.origin != Origin::Environment)
        };
        let kept = self.given.iter().filter(|(name, given)| stays(name, given));
        kept.map(|(name, given)| pair(name, &given.value)).collect::<Vec<_>>().join(" ")
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
        self.given.get(name).is_some_and(|given| given.origin == Origin::Environment)
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

    /// An integer of up to `most`, with blanks around it as libpq allows. What is below zero means the default, as there.
    pub(super) fn integer(&mut self, name: &'static str, most: i32) -> Option<i64> {
        let text = self.text(name)?;
        match text.trim().parse::<i32>() {
            Ok(number) if number <= most => Some(number.into()),
            _ => {
                self.fault(name, &format!("must be a whole number from 0 to {most}"));
                None
            }
        }
    }

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

/// The table's own spelling of a parameter's name.
fn known(name: &str) -> Option<&'static str> {
    PARAMETERS.iter().map(|(known, ..)| *known).find(|known| *known == name)
}

/// `name='value'`
pub(super) fn pair(name: &str, value: &str) -> String {
    format!("{name}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
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

pub(super) fn or_list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}
