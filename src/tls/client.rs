//! TLS to servers: the configuration of one service on one core.

use std::sync::Arc;

use rustls::client::{Resumption, WantsClientCert};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, Error, WantsVerifier};

use super::error::TlsError;
use super::recorder::RecordingVerifier;
use super::roots::{Roots, ServerVerifier};
use super::secrets::hand_over;
use super::server::{ALPN_HTTP2, provider, versions};
use crate::certs;
use crate::certs::chain::sent;
use crate::config::{CertificateFiles, OutboundTls, TlsChoice};
use crate::limits::{CHAIN_BYTES_MAX, OUTBOUND_SESSIONS};
use crate::observe::TlsVersion;

/// TLS settings for the servers of a service, read from files and checked.
#[derive(Debug)]
pub struct ClientTls {
    roots: Roots,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    choice: TlsChoice,
}

impl ClientTls {
    /// Reads the files that `config` names, or the system's roots where it names none.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(config: &OutboundTls, choice: &TlsChoice) -> Result<Self, TlsError> {
        let roots = match &config.roots {
            Some(file) => Roots::of(file)?,
            None => Roots::of_system()?,
        };
        let identity = match &config.certificate {
            None => None,
            Some(CertificateFiles { file, key, .. }) => {
                let (chain, key) = certs::read_identity(file, key.as_deref(), None)?;
                let chain = sent(&chain);
                let bytes: usize = chain.iter().map(|der| der.len() + 5).sum();
                if bytes > CHAIN_BYTES_MAX {
                    let file = file.clone();
                    return Err(TlsError::ChainTooLong { file, bytes });
                }
                Some((chain, key))
            }
        };
        let tls = Self {
            roots,
            identity,
            choice: choice.clone(),
        };
        tls.config()?;
        Ok(tls)
    }

    /// A configuration for handshakes of any library. None is resumed: each meets the server as it
    /// is.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let verifier = self.verifier(&self.choice)?;
        let builder = builder(&self.choice)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        self.authenticated(builder)
    }

    /// The same for a handshake that only is to find out what the server is like: its certificate
    /// is noted, and not refused. With `only`, it speaks that version and all that there is in it,
    /// and tells the usual protocols (ALPN).
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn probe(
        &self,
        only: Option<TlsVersion>,
    ) -> Result<(ClientConfig, Arc<RecordingVerifier>), TlsError> {
        let choice = match only {
            None => self.choice.clone(),
            Some(version) => TlsChoice {
                tls12: version == TlsVersion::Tls12,
                tls13: version == TlsVersion::Tls13,
                ..TlsChoice::default()
            },
        };
        let recorder = Arc::new(RecordingVerifier::new(self.verifier(&choice)?));
        let builder = builder(&choice)?
            .dangerous()
            .with_custom_certificate_verifier(recorder.clone());
        let mut config = self.authenticated(builder)?;
        if only.is_some() {
            config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
        }
        Ok((config, recorder))
    }

    fn verifier(&self, choice: &TlsChoice) -> Result<ServerVerifier, TlsError> {
        let verifier = self.roots.verifier(&Arc::new(provider(choice)));
        verifier.map_err(|error| TlsError::Versions("outbound", error))
    }

    fn authenticated(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, TlsError> {
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(TlsError::ClientCertificate)?,
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// The configuration of one core's tunnels, whose record layer takes the secrets over when a
    /// handshake is done.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn of_core(&self) -> Result<ClientConfig, TlsError> {
        let mut config = self.config()?;
        config.enable_secret_extraction = true;
        config.key_log = hand_over();
        config.resumption = Resumption::in_memory_sessions(OUTBOUND_SESSIONS);
        Ok(config)
    }
}

fn builder(choice: &TlsChoice) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(Arc::new(provider(choice)))
        .with_protocol_versions(&versions(choice))
        .map_err(|error| TlsError::Versions("outbound", error))
}

/// Why a handshake with a server failed, in the classes that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFailure {
    /// Its certificate is not accepted.
    Certificate,
    /// It sent an alert.
    Alert,
    /// Anything else.
    Protocol,
}

impl ServerFailure {
    /// The class of a rustls error.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::Certificate,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Protocol,
        }
    }
}
