//! The bound that adit is measured against: the smallest program on adit's ring that does what an open tunnel must.
//!
//! It receives, opens TLS 1.3 AES-128-GCM records where they lie, and sends; and the reverse. It asks no policy, counts
//! nothing, has no idle limit, answers no alert and ends a session with whatever surprises it. The handshake before it is
//! rustls's, as simple as it can be, and no part of what is compared. `perf/compare --peers bound` runs it.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use adit::ring::{self, Pieces, RingBuf, Runtime, RuntimeConfig, Spacing, TcpListener, TcpStream};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use clap::Parser;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ConnectionTrafficSecrets, RootCertStore, ServerConfig, ServerConnection};

type Failure = Box<dyn std::error::Error>;

const HEADER: usize = 5;
const TAG: usize = 16;
const PLAINTEXT: usize = 1 << 14;
/// Bytes of a record around its content: header, content type and tag.
const AROUND: usize = HEADER + 1 + TAG;
const APPLICATION_DATA: u8 = 23;

/// A relay from mutual TLS 1.3 to TCP without anything else.
#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    backend: SocketAddr,
    /// The server's certificate chain, PEM.
    #[arg(long)]
    cert: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// The authority of client certificates, PEM.
    #[arg(long)]
    ca: PathBuf,
    /// The CRL of that authority, PEM: it is checked by webpki then.
    #[arg(long)]
    crl: Option<PathBuf>,
    /// CPU to run on.
    #[arg(long)]
    core: Option<usize>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let config = server_config(&options)?;
    if let Some(cpu) = options.core {
        ring::pin_to_cpu(cpu)?;
    }
    ring::raise_descriptor_limit()?;
    Runtime::new(RuntimeConfig::default())?.block_on(async move {
        let listener = TcpListener::bind(options.listen, 4096)?;
        loop {
            let client = listener.accept().await?;
            let config = config.clone();
            ring::spawn(async move {
                // A session that breaks ends; there is nobody to tell.
                let _ = session(client, config, options.backend).await;
            });
        }
    })
}

fn server_config(options: &Options) -> Result<Arc<ServerConfig>, Failure> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&fs::read(&options.cert)?).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&fs::read(&options.key)?)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(&options.ca)?)?)?;
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..provider::default_provider()
    });
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    if let Some(crl) = &options.crl {
        verifier = verifier.with_crls([CertificateRevocationListDer::from_pem_slice(&fs::read(
            crl,
        )?)?]);
    }
    let verifier = verifier.build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    Ok(config.into())
}

async fn session(
    client: TcpStream,
    config: Arc<ServerConfig>,
    backend: SocketAddr,
) -> Result<(), Failure> {
    let mut tls = ServerConnection::new(config)?;
    let mut carry: Option<RingBuf> = None;
    while tls.is_handshaking() {
        let received = match carry.take() {
            None => client.recv().await?,
            Some(part) => {
                let (count, part) = client.recv_into(part, usize::MAX).await;
                (count? > 0).then_some(part)
            }
        };
        let Some(mut bytes) = received else {
            return Ok(());
        };
        // One record at a time: what comes behind the handshake is not rustls's.
        while tls.is_handshaking()
            && let Some(length) = record_length(&bytes).filter(|length| *length <= bytes.len())
        {
            tls.read_tls(&mut &bytes[..length])?;
            tls.process_new_packets()?;
            bytes.consume(length);
        }
        bytes.compact();
        carry = (!bytes.is_empty()).then_some(bytes);
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight)?;
        }
        client.send(flight).await.0?;
    }
    let secrets = tls.dangerous_extract_secrets()?;
    let (receiving, sending) = (Keys::new(secrets.rx)?, Keys::new(secrets.tx)?);
    let server = TcpStream::connect(backend).await?;
    let ends = Rc::new((client, server));
    let other = ends.clone();
    let _up = ring::spawn_owned(async move {
        let _ = up(&other.0, &other.1, receiving, carry).await;
        let _ = other.1.shutdown().await;
    });
    down(&ends.1, &ends.0, sending).await
}

/// Opens what comes from `client` and sends it to `server`.
async fn up(
    client: &TcpStream,
    server: &TcpStream,
    keys: Keys,
    mut carry: Option<RingBuf>,
) -> Result<(), Failure> {
    loop {
        let complete = |part: &RingBuf| record_length(part).is_some_and(|n| n <= part.len());
        let received = match carry.take() {
            Some(part) if complete(&part) => Some(part),
            None => match client.is_bulk().then(RingBuf::large).flatten() {
                Some(large) => {
                    let (count, large) = client.recv_into(large, usize::MAX).await;
                    (count? > 0).then_some(large)
                }
                None => client.recv().await?,
            },
            Some(mut part) => {
                if client.is_bulk()
                    && !part.is_large()
                    && let Some(mut large) = RingBuf::large()
                {
                    large.append(&part);
                    part = large;
                }
                let (count, part) = client.recv_into(part, usize::MAX).await;
                (count? > 0).then_some(part)
            }
        };
        let Some(received) = received else {
            return Ok(());
        };
        let mut pieces = Pieces::of(received);
        while let Some(length) = record_length(pieces.rest()).filter(|n| *n <= pieces.rest().len())
        {
            let content = keys.open(&mut pieces.rest()[..length])?;
            let Some(end) = content else { return Ok(()) };
            pieces.take(length, HEADER..HEADER + end);
        }
        let (sent, pieces) = server.send_pieces(pieces).await;
        sent?;
        carry = pieces.into_rest();
    }
}

/// Seals what comes from `server` and sends it to `client`.
async fn down(server: &TcpStream, client: &TcpStream, keys: Keys) -> Result<(), Failure> {
    let spacing = Spacing {
        piece: PLAINTEXT,
        gap: AROUND,
        most: u16::MAX,
    };
    while let Some((_, mut buffer)) = server.recv_spaced(spacing).await? {
        buffer.widen(HEADER, AROUND - HEADER);
        for record in buffer.chunks_mut(PLAINTEXT + AROUND) {
            keys.seal(record)?;
        }
        client.send(buffer).await.0?;
    }
    Ok(())
}

/// Bytes of the record that begins here; `None` where its header is not complete.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, a, b] = bytes.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes([a, b])))
}

/// One direction's key, and the number of the next record.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: Cell<u64>,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Failure> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            return Err("not AES-128-GCM".into());
        };
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref())?),
            iv: iv.as_ref().try_into()?,
            sequence: Cell::new(sequence),
        })
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        for (byte, number) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Opens a record; where its content ends, or `None` for an alert.
    fn open(&self, record: &mut [u8]) -> Result<Option<usize>, Failure> {
        let (header, body) = record.split_at_mut(HEADER);
        let opened = self
            .key
            .open_in_place(self.nonce(), Aad::from(&*header), body)?;
        let end = opened.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or("a record of padding")?;
        Ok((opened[end] == APPLICATION_DATA).then_some(end))
    }

    fn seal(&self, record: &mut [u8]) -> Result<(), Failure> {
        let length = (record.len() - HEADER) as u16;
        let (header, body) = record.split_at_mut(HEADER);
        let (content, tag) = body.split_at_mut(body.len() - 1 - TAG);
        let [a, b] = length.to_be_bytes();
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, a, b]);
        self.key.seal_in_place_scatter(
            self.nonce(),
            Aad::from(&*header),
            content,
            &[APPLICATION_DATA],
            tag,
        )?;
        Ok(())
    }
}
