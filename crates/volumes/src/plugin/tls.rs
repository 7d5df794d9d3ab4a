//! TLS to a plugin on another machine.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, StreamOwned};

use super::address::{Connection, TlsFiles, late, left};

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Begins to speak TLS: by the end of it the peer is known to be who it should be.
pub(crate) fn connect(
    stream: TcpStream,
    host: &str,
    files: &TlsFiles,
    until: Instant,
) -> io::Result<Connection> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| invalid(format!("{host} is no name that a certificate can have")))?;
    let config = Arc::new(config(files)?);
    let client = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(client, stream);
    while stream.conn.is_handshaking() {
        let left = Some(left(until)?);
        set_socket_timeout(&stream.sock, Timeout::Recv, left)?;
        set_socket_timeout(&stream.sock, Timeout::Send, left)?;
        let (read, written) = stream.conn.complete_io(&mut stream.sock).map_err(late)?;
        if read + written == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Connection::Tls(Box::new(stream)))
}

fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &files.ca {
        Some(ca) if !files.insecure => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| named(ca, &error))?;
            }
            builder.with_root_certificates(roots)
        }
        _ => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    match (&files.cert, &files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
            builder
                .with_client_auth_cert(certificates(cert)?, read)
                .map_err(|error| named(cert, &error))
        }
        _ => Err(invalid("TLSConfig needs CertFile and KeyFile together".to_owned())),
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| named(path, &error))?;
    let read: Result<Vec<_>, _> = read.collect();
    let read = read.map_err(|error| named(path, &error))?;
    if read.is_empty() {
        return Err(invalid(format!("{}: no certificate in it", path.display())));
    }
    Ok(read)
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    invalid(format!("{}: {error}", path.display()))
}

/// Whoever answers is believed, but what it signs must be signed: for a plugin without a CA, as
/// with Docker.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
