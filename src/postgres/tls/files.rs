//! The files of TLS: root certificates, the client's certificate and its key, each with libpq's default place and its
//! rule for a file that is missing. Every error names the parameter and the path.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsSetupError;
use super::verifier::Roots;
use crate::postgres::conninfo::{RootCert, SslCertMode, SslMode, TlsSpec};

/// The client's certificate, leaf first, and its key.
pub(super) struct Identity {
    pub(super) cert_path: PathBuf,
    pub(super) key_path: PathBuf,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

fn default_file(spec: &TlsSpec, name: &str) -> Option<PathBuf> {
    Some(spec.home.as_ref()?.join(".postgresql").join(name))
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whom to trust. libpq verifies with a root file whenever there is one, and insists on it in the verify modes alone.
pub(super) fn roots(spec: &TlsSpec, warnings: &mut Vec<String>) -> Result<Roots, TlsSetupError> {
    let path = match &spec.root {
        RootCert::System => {
            // The list that Mozilla keeps, where the system has none.
            let native = rustls_native_certs::load_native_certs().certs;
            return Ok(if native.is_empty() { Roots::Mozilla } else { Roots::System(native) });
        }
        RootCert::File(path) => Some(path.clone()),
        RootCert::Default => default_file(spec, "root.crt"),
    };
    let mode = spec.mode.as_str();
    let insists = spec.mode >= SslMode::VerifyCa;
    let Some(path) = path else {
        return if insists { Err(no_roots(mode, "sslrootcert is not given".into())) } else { Ok(Roots::Unverified) };
    };
    match std::fs::read(&path) {
        Ok(text) => Ok(Roots::Trusted {
            certificates: certificates(&path, "sslrootcert", &text)?,
            origin: path.display().to_string(),
        }),
        Err(error) if is_missing(&error) => {
            if insists {
                return Err(no_roots(mode, format!("the root certificate file {} does not exist", path.display())));
            }
            if matches!(spec.root, RootCert::File(_)) {
                warnings.push(format!(
                    "The root certificate file {} (sslrootcert) does not exist, so the server's certificate is not \
                     verified: correct the path, or insist on it with sslmode=verify-full.",
                    path.display()
                ));
            }
            Ok(Roots::Unverified)
        }
        Err(error) => Err(unreadable("root certificate file", &path, "sslrootcert", &error)),
    }
}

fn no_roots(mode: &str, why: String) -> TlsSetupError {
    TlsSetupError(format!(
        "The server's certificate cannot be verified as sslmode={mode} demands, because {why}: give the file as \
         sslrootcert, trust the system's authorities with sslrootcert=system, or do without with sslmode=require."
    ))
}

fn unreadable(what: &str, path: &Path, parameter: &str, error: &std::io::Error) -> TlsSetupError {
    TlsSetupError(format!("The {what} {} ({parameter}) cannot be read: {error}.", path.display()))
}

fn certificates(path: &Path, parameter: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let why = match parsed {
        Ok(certificates) if certificates.is_empty() => "there is no BEGIN CERTIFICATE".to_owned(),
        Ok(certificates) => return Ok(certificates),
        Err(error) => error.to_string(),
    };
    let path = path.display();
    Err(TlsSetupError(format!("The file {path} ({parameter}) holds no usable certificate in PEM form: {why}.")))
}

/// The client's certificate and key; `None` if there is no certificate, which only the server can object to.
pub(super) fn identity(spec: &TlsSpec, warnings: &mut Vec<String>) -> Result<Option<Identity>, TlsSetupError> {
    if spec.cert_mode == SslCertMode::Disable {
        return Ok(None);
    }
    let Some(cert_path) = spec.cert.clone().or_else(|| default_file(spec, "postgresql.crt")) else { return Ok(None) };
    let text = match std::fs::read(&cert_path) {
        Ok(text) => text,
        Err(error) if is_missing(&error) => {
            if spec.cert.is_some() {
                let path = cert_path.display();
                warnings.push(format!("The client certificate {path} (sslcert) does not exist and is not offered."));
            }
            return Ok(None);
        }
        Err(error) => return Err(unreadable("client certificate", &cert_path, "sslcert", &error)),
    };
    let chain = certificates(&cert_path, "sslcert", &text)?;
    let Some(key_path) = spec.key.clone().or_else(|| default_file(spec, "postgresql.key")) else {
        return Err(TlsSetupError(format!(
            "The client certificate {} lacks its key: add sslkey.",
            cert_path.display()
        )));
    };
    let key = private_key(&key_path)?;
    Ok(Some(Identity { cert_path, key_path, chain, key }))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    refuse_open_key(path)?;
    let bytes = std::fs::read(path).map_err(|error| unreadable("client key", path, "sslkey", &error))?;
    let shown = path.display();
    if is_encrypted(&bytes) {
        return Err(TlsSetupError(format!(
            "The client key {shown} (sslkey) is encrypted, which is not supported: decrypt it with \
             openssl pkey -in {shown} -out PLAIN_KEY."
        )));
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(_) => PrivateKeyDer::try_from(bytes)
            .map_err(|_| TlsSetupError(format!("The file {shown} (sslkey) holds no private key in PEM or DER form."))),
    }
}

/// libpq's rule: only the owner may read the key, or a group too if root owns it.
fn refuse_open_key(path: &Path) -> Result<(), TlsSetupError> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable("client key", path, "sslkey", &error))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.is_file() && metadata.mode() & forbidden == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(TlsSetupError(format!("The client key {path} (sslkey) may be read by others: chmod 600 it.")))
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}
