//! `hoyd dial HOST PORT`: standard input becomes a connection by TLS to another daemon. The command
//! line starts it for `tcp://` with TLS, so that it needs no cryptography of its own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::{TlsFiles, carry, certificates, failed, provider, roots};

/// The other side has so long to take the connection, and as long to say who it is.
const CONNECT: Duration = Duration::from_secs(10);
/// Authorities that this machine trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The program's words after `dial`.
pub fn main(words: &[String]) -> io::Result<()> {
    let (host, port, files) = parse(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dial(&host, port, &files))
}

fn parse(words: &[String]) -> io::Result<(String, u16, TlsFiles)> {
    let usage = || {
        io::Error::other("dial HOST PORT [--ca FILE] [--cert FILE] [--key FILE] [--skip-verify]")
    };
    let [host, port, rest @ ..] = words else { return Err(usage()) };
    let mut files = TlsFiles { verify: true, ..TlsFiles::default() };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let file = match word.as_str() {
            "--skip-verify" => {
                files.verify = false;
                continue;
            }
            "--ca" => &mut files.ca,
            "--cert" => &mut files.cert,
            "--key" => &mut files.key,
            _ => return Err(usage()),
        };
        *file = Some(PathBuf::from(rest.next().ok_or_else(usage)?));
    }
    Ok((host.clone(), port.parse().map_err(|_| usage())?, files))
}

async fn dial(host: &str, port: u16, files: &TlsFiles) -> io::Result<()> {
    let near = io::stdin().as_fd().try_clone_to_owned()?;
    let near = std::os::unix::net::UnixStream::from(near);
    near.set_nonblocking(true)?;
    let near = UnixStream::from_std(near)?;
    let late =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("{host}:{port} does not answer"));
    let config = config(files)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = timeout(CONNECT, TcpStream::connect((host, port))).await.map_err(late)??;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = timeout(CONNECT, connector.connect(name, stream)).await.map_err(late)??;
    carry(stream, near).await;
    Ok(())
}

fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = if files.verify {
        let system = std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM.into(), PathBuf::from);
        let ca: &Path = files.ca.as_deref().unwrap_or(&system);
        builder.with_root_certificates(roots(ca)?)
    } else {
        // Asked for by name: --tls without --tlsverify, or skip-tls-verify of a context.
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
            builder.with_client_auth_cert(certificates(cert)?, secret).map_err(io::Error::other)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Takes every certificate; that its owner has the key is looked at.
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
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
