//! TLS as libpq means it: which files are read, what `sslmode` verifies, and the rustls connector that does it. Owns
//! certificates and keys; knows nothing of sockets or of when plaintext is tried instead (that is `connect`).
//!
//! - No root certificates: anything is accepted. That is `require`, and so are `prefer` and `allow`.
//! - Root certificates (`sslrootcert`, or `~/.postgresql/root.crt`): the chain is verified in every mode.
//! - `verify-ca` and `verify-full` insist on root certificates; `verify-full` verifies the host's name as well.

mod files;
mod verifier;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, version};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{SslMode, SslNegotiation, TlsSpec, TlsVersion};
use verifier::Verifier;

/// The protocol name that direct TLS must offer.
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
const ALPN: &[u8] = b"postgresql";

/// Why TLS cannot be set up: a sentence that names the parameter, the file and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsSetupError(String);

/// Reads the certificates and keys that the specification asks for; `None` if it is `sslmode=disable`. With it come
/// warnings, for instance about a file that was named and is not there.
pub fn load(spec: &TlsSpec) -> Result<Option<(MakeRustlsConnect, Vec<String>)>, TlsSetupError> {
    if spec.mode == SslMode::Disable {
        return Ok(None);
    }
    let mut warnings = Vec::new();
    let roots = files::roots(spec, &mut warnings)?;
    let identity = files::identity(spec, &mut warnings)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(roots, spec.mode == SslMode::VerifyFull, &provider)?;
    let mut config = client_config(spec, provider, verifier, identity)?;
    config.enable_sni = spec.sni;
    // As with libpq, each connection is a full handshake: the load of connecting is not to depend on what came before.
    config.resumption = Resumption::disabled();
    if spec.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(Some((MakeRustlsConnect::new(config), warnings)))
}

fn client_config(
    spec: &TlsSpec,
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
    identity: Option<files::Identity>,
) -> Result<ClientConfig, TlsSetupError> {
    let spoken = [(TlsVersion::V1_2, &version::TLS12), (TlsVersion::V1_3, &version::TLS13)];
    let allowed = spoken.iter().filter(|(version, _)| (spec.min_version..=spec.max_version).contains(version));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&allowed.map(|(_, version)| *version).collect::<Vec<_>>())
        .map_err(|error| TlsSetupError(format!("TLS cannot be set up: {error}.")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (cert, key) = (identity.cert_path.display(), identity.key_path.display());
    let unusable = |error| {
        TlsSetupError(format!(
            "The client certificate {cert} (sslcert) and the key {key} (sslkey) cannot be used together: {error}."
        ))
    };
    builder.with_client_auth_cert(identity.chain, identity.key).map_err(unusable)
}
