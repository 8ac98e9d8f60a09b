//! What is demanded of a server's certificate. Owns the differences between webpki and OpenSSL that libpq's users rely
//! on: a server certificate that is itself listed as a root, and the common name where there is no alternative name.

use std::net::IpAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::TlsSetupError;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whom to trust.
pub(super) enum Roots {
    Unverified,
    /// What the user listed; `origin` is the file.
    Trusted {
        certificates: Vec<CertificateDer<'static>>,
        origin: String,
    },
    /// What the operating system trusts; single entries that cannot be read do no harm.
    System(Vec<CertificateDer<'static>>),
    Mozilla,
}

#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` accepts any certificate.
    roots: Option<RootCertStore>,
    /// The roots as they stood in the file: a server may use one of them itself.
    listed: Vec<CertificateDer<'static>>,
    /// Whether the host's name is verified, too.
    checks_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(roots: Roots, checks_name: bool, provider: &CryptoProvider) -> Result<Self, TlsSetupError> {
        let mut store = RootCertStore::empty();
        let mut listed = Vec::new();
        let mut verified = true;
        match roots {
            Roots::Unverified => verified = false,
            Roots::Mozilla => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Roots::System(certificates) => {
                store.add_parsable_certificates(certificates);
            }
            Roots::Trusted { certificates, origin } => {
                for certificate in &certificates {
                    store.add(certificate.clone()).map_err(|error| {
                        TlsSetupError(format!(
                            "The file {origin} (sslrootcert) holds an unusable certificate: {error}."
                        ))
                    })?;
                }
                listed = certificates;
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { roots: verified.then_some(store), listed, checks_name, algorithms })
    }

    fn verify_chain(
        &self,
        roots: &RootCertStore,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // webpki rejects a self-signed authority in the role of a server; trusted as it is, only its dates matter.
        if self.listed.iter().any(|listed| listed.as_ref() == leaf.as_ref()) {
            return verify_dates(&parse(leaf)?, now);
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
    }

    /// webpki cannot read certificates of version 1, and an unverified server proves nothing by its signature.
    fn verify_signature(
        &self,
        verify: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.roots.is_none() { Ok(HandshakeSignatureValid::assertion()) } else { verify() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        self.verify_chain(roots, leaf, intermediates, now)?;
        if self.checks_name {
            verify_name(leaf, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|| verify_tls12_signature(message, leaf, signature, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|| verify_tls13_signature(message, leaf, signature, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(leaf: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding.into())
}

fn verify_dates(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = &certificate.tbs_certificate.validity;
    let seconds = |time: &x509_cert::time::Time| UnixTime::since_unix_epoch(time.to_unix_duration());
    let (not_before, not_after) = (seconds(&validity.not_before), seconds(&validity.not_after));
    if now.as_secs() < not_before.as_secs() {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now.as_secs() > not_after.as_secs() {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

fn verify_name(leaf: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    let refusal = match verify_server_name(&ParsedCertificate::try_from(leaf)?, server_name) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let names = Names::of(&parse(leaf)?);
    let accepted = match server_name {
        ServerName::DnsName(name) if !names.has_dns => names.common_name_covers(name.as_ref()),
        ServerName::IpAddress(address) if !names.has_ip => {
            names.common_name_covers(&IpAddr::from(*address).to_string())
        }
        _ => false,
    };
    if accepted { Ok(()) } else { Err(names.refusal(server_name, refusal)) }
}

/// The names in a certificate, as far as libpq's rule needs them: the common name counts if there is no alternative
/// name of the host's kind. <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-CERTIFICATES>
struct Names {
    has_dns: bool,
    has_ip: bool,
    common_name: Option<String>,
}

impl Names {
    fn of(certificate: &Certificate) -> Self {
        let alternatives = certificate.tbs_certificate.get::<SubjectAltName>().ok().flatten();
        let has =
            |kind: fn(&GeneralName) -> bool| alternatives.as_ref().is_some_and(|(_, names)| names.0.iter().any(kind));
        let mut attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|names| names.0.iter());
        let common_name = attributes.find(|attribute| attribute.oid == COMMON_NAME);
        Self {
            has_dns: has(|name| matches!(name, GeneralName::DnsName(_))),
            has_ip: has(|name| matches!(name, GeneralName::IpAddress(_))),
            common_name: common_name.and_then(|name| String::from_utf8(name.value.value().to_vec()).ok()),
        }
    }

    /// Equal without regard to case, or `*.` in place of exactly one label.
    fn common_name_covers(&self, host: &str) -> bool {
        let Some(name) = &self.common_name else { return false };
        let wildcard = name.strip_prefix("*.").zip(host.split_once('.'));
        name.eq_ignore_ascii_case(host)
            || wildcard.is_some_and(|(suffix, (label, rest))| {
                !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(rest)
            })
    }

    /// The refusal, with the common name among the names that the certificate does present.
    fn refusal(self, server_name: &ServerName<'_>, refusal: Error) -> Error {
        match (refusal, self.common_name) {
            (Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }), Some(name))
                if presented.is_empty() =>
            {
                let expected = server_name.to_owned();
                CertificateError::NotValidForNameContext { expected, presented: vec![name] }.into()
            }
            (refusal, _) => refusal,
        }
    }
}
