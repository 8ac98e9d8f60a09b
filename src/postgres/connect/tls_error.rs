//! The sentences for what can be wrong with TLS. Owns the reading of rustls's errors.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

use super::error::{Attempt, ConnectError, ConnectErrorKind as Kind};

impl Attempt<'_> {
    /// TLS failed, on our side or by an alert of the server.
    pub(super) fn tls(&self, error: &rustls::Error) -> ConnectError {
        let (server, host) = (&self.server, self.host.name());
        let mode = self.inner.spec.tls.mode.as_str();
        let (kind, message) = match error {
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => (
                Kind::TlsWrongName,
                format!(
                    "The certificate of {server} is made out for {}, not for {host}: use that name as the host in \
                     --postgres-url (and hostaddr for the address), or sslmode=verify-ca.",
                    names(presented)
                ),
            ),
            rustls::Error::InvalidCertificate(CertificateError::NotValidForName) => (
                Kind::TlsWrongName,
                format!("The certificate of {server} is not made out for {host}: correct the host in --postgres-url."),
            ),
            rustls::Error::InvalidCertificate(reason) => (Kind::TlsUntrusted, untrusted(server, mode, reason)),
            rustls::Error::AlertReceived(alert) => (Kind::TlsOther, alerted(server, *alert)),
            rustls::Error::PeerIncompatible(_) => (
                Kind::TlsOther,
                format!(
                    "{server} and this program have no TLS version or cipher in common ({error}): TLS 1.2 and 1.3 are \
                     spoken, within ssl_min_protocol_version and ssl_max_protocol_version of --postgres-url."
                ),
            ),
            _ => (
                Kind::TlsOther,
                format!(
                    "TLS with {server} failed ({error}): check that the port in --postgres-url speaks TLS for Postgres."
                ),
            ),
        };
        ConnectError::new(kind, message)
    }
}

/// The names as people write them; webpki writes `DnsName("db.example")` and `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    let names: Vec<_> = presented.iter().map(bare).collect();
    if names.is_empty() { "no name at all".into() } else { names.join(", ") }
}

fn days(from: UnixTime, to: UnixTime) -> u64 {
    to.as_secs().saturating_sub(from.as_secs()).div_ceil(86_400)
}

fn untrusted(server: &str, mode: &str, reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => format!(
            "The certificate of {server} is not from a trusted authority: put the right authority's certificate into \
             sslrootcert (or sslrootcert=system for a public one) in --postgres-url; sslmode is {mode}."
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "The certificate of {server} is out of date, it expired {} days ago: renew it, or set this machine's clock.",
            days(*not_after, *time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "The certificate of {server} is not valid yet, but in {} days: replace it, or set this machine's clock.",
            days(*time, *not_before)
        ),
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => format!(
            "The certificate of {server} is an authority's own, and is not trusted: if it is the right one, put it \
             into sslrootcert in --postgres-url; sslmode is {mode}."
        ),
        _ => format!(
            "The certificate of {server} cannot be verified ({reason}): replace it, or correct sslrootcert in \
             --postgres-url; sslmode is {mode}."
        ),
    }
}

fn alerted(server: &str, alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::UnknownCA
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked => format!(
            "{server} does not accept the client certificate ({alert:?}): correct sslcert and sslkey in --postgres-url, \
             or leave them out."
        ),
        Alert::NoApplicationProtocol => format!(
            "{server} does not offer Postgres over direct TLS: leave sslnegotiation=direct out of --postgres-url."
        ),
        _ => format!(
            "{server} ended the TLS handshake ({alert:?}): check that it speaks TLS there, and the versions it allows."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_plainly() {
        let presented = ["DnsName(\"*.db.example\")", "IpAddress(127.0.0.1)", "common name"].map(str::to_owned);
        assert_eq!(names(&presented), "*.db.example, 127.0.0.1, common name");
        assert_eq!(names(&[]), "no name at all");
    }

    #[test]
    fn days_are_rounded_up() {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert_eq!(days(at(0), at(1)), 1);
        assert_eq!(days(at(0), at(86_400)), 1);
        assert_eq!(days(at(0), at(86_401)), 2);
    }
}
