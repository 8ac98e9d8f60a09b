//! Listeners that answer what a real server cannot be made to say: a given error, nothing, nonsense, and
//! direct TLS in front of a real server.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::certificates::Pair;

/// What a listener does after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Stay,
    Leave,
}

/// Takes connections on the runtime of the calling test and says `answer` after the first message.
pub async fn saying(answer: Vec<u8>, then: Then) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(&answer).await;
                while then == Then::Stay && stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    port
}

/// An ErrorResponse message: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
pub fn error_response(sqlstate: &str, message: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0");
    let length = u32::try_from(body.len() + 4).unwrap();
    [b"E", &length.to_be_bytes()[..], body.as_bytes()].concat()
}

/// Speaks TLS from the first byte, insists on the protocol name, and passes the contents on to a server's port.
pub async fn direct_tls(pair: &Pair, to: u16) -> u16 {
    let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]), "direct TLS without its name");
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    port
}
