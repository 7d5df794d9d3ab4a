//! TLS on TCP sockets. The daemon ends it itself and goes on with a socket of its own: what is handed
//! to a supervisor must be a socket that bytes go through as they are.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// A client has so long to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What a client whose connection has ended may take to close it.
const GRACE: Duration = Duration::from_secs(30);

/// Files of a side of TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The other side must have a certificate of that authority.
    pub verify: bool,
}

/// What a listening socket does with connections.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    /// Clients are known by their certificates.
    pub verifies: bool,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> io::Error {
    move |error| io::Error::other(format!("read {}: {error}", path.display()))
}

/// The certificates of a file.
pub(crate) fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(failed(path))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(failed(path))?;
    if all.is_empty() {
        return Err(io::Error::other(format!("{}: no certificate in it", path.display())));
    }
    Ok(all)
}

pub(crate) fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    }
    Ok(roots)
}

impl Tls {
    /// Reads what the settings name.
    pub fn open(files: &TlsFiles) -> io::Result<Self> {
        let missing = |what: &str| io::Error::other(format!("TLS needs a {what}"));
        let cert = files.cert.as_deref().ok_or_else(|| missing("certificate: --tlscert"))?;
        let key = files.key.as_deref().ok_or_else(|| missing("key: --tlskey"))?;
        let chain = certificates(cert)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = if files.verify {
            let ca =
                files.ca.as_deref().ok_or_else(|| missing("certificate authority: --tlscacert"))?;
            let roots = Arc::new(roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(io::Error::other)?)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain, secret).map_err(io::Error::other)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), verifies: files.verify })
    }

    /// Speaks TLS with a client; what it says in it comes out of the socket.
    pub async fn accept(&self, stream: TcpStream, from: SocketAddr) -> io::Result<UnixStream> {
        let stream = timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let stream = stream.map_err(|_| io::Error::other(format!("{from} says nothing")))??;
        let (near, far) = UnixStream::pair()?;
        tokio::spawn(carry(stream, far));
        Ok(near)
    }
}

/// Carries bytes both ways until both have ended, or what is on this machine has and some time passed.
pub(crate) async fn carry(stream: impl AsyncRead + AsyncWrite, near: UnixStream) {
    let (mut from_far, mut to_far) = split(stream);
    let (mut from_near, mut to_near) = near.into_split();
    let inwards = async {
        let _ = copy(&mut from_far, &mut to_near).await;
        let _ = to_near.shutdown().await;
    };
    let outwards = async {
        let _ = copy(&mut from_near, &mut to_far).await;
        let _ = to_far.shutdown().await;
    };
    tokio::pin!(inwards, outwards);
    tokio::select! {
        () = &mut outwards => drop(timeout(GRACE, inwards).await),
        () = &mut inwards => outwards.await,
    }
}
