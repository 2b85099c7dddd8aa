//! One direction's keys: seals and opens single records where they lie.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::crypto::tls13::OkmBlock;
use rustls::{ConnectionTrafficSecrets, ContentType, SupportedCipherSuite};

use zeroize::Zeroizing;

use super::fault::Fault;
use super::renewal::Renewal;
use crate::limits::{AES_GCM_RECORDS_MAX, TLS_PLAINTEXT_MAX, TLS_RECORD_HEADER, TLS13_PADDED_MAX};

/// Bytes of the authentication tag of every suite.
const TAG: usize = 16;

/// Bytes of the longest key of a suite.
const KEY_MAX: usize = 32;

/// Bytes of the nonce of every suite.
const NONCE: usize = 12;

/// The part of a TLS 1.2 AES-GCM nonce that each record carries (RFC 5288, section 3).
const EXPLICIT_NONCE: usize = 8;

/// The version on the wire of both TLS 1.2 and 1.3 (RFC 8446, section 5.2).
const WIRE_VERSION: [u8; 2] = [3, 3];

fn made_ready(algorithm: &'static Algorithm, key: &[u8]) -> Result<LessSafeKey, Fault> {
    let key = UnboundKey::new(algorithm, key).map_err(|_| Fault::Internal)?;
    Ok(LessSafeKey::new(key))
}

/// How a record is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// The content type is sealed behind the content (RFC 8446, section 5.2).
    Tls13,
    /// The content type is in the header and a part of the nonce before the content (RFC 5288,
    /// section 3).
    Tls12Gcm,
    /// The content type is in the header (RFC 7905, section 2).
    Tls12ChaCha,
}

/// The keys of one direction and the number of the next record.
pub(super) struct Protection {
    /// The key's schedule and tables, ten times the size of all else here. Made anew after a rest.
    ready: Option<LessSafeKey>,
    algorithm: &'static Algorithm,
    /// As many bytes as the algorithm's key has.
    key: Zeroizing<[u8; KEY_MAX]>,
    iv: [u8; NONCE],
    sequence: u64,
    limit: u64,
    shape: Shape,
    /// TLS 1.3 only.
    renewal: Option<Renewal>,
}

impl Protection {
    /// Keys that rustls has derived, from record number `sequence` on. The traffic secret is for
    /// those that follow.
    ///
    /// # Errors
    /// [`Fault::Internal`] for a suite that this layer does not know.
    pub fn new(
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
        suite: SupportedCipherSuite,
        traffic_secret: Option<OkmBlock>,
    ) -> Result<Self, Fault> {
        let tls13 = suite.tls13().is_some();
        let gcm = if tls13 { Shape::Tls13 } else { Shape::Tls12Gcm };
        let chacha = if tls13 {
            Shape::Tls13
        } else {
            Shape::Tls12ChaCha
        };
        let (algorithm, key, iv, shape): (&'static Algorithm, _, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, gcm),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, gcm),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&CHACHA20_POLY1305, key, iv, chacha)
            }
            _ => return Err(Fault::Internal),
        };
        let keys = Self::with_key(algorithm, key.as_ref(), iv.as_ref(), *sequence, shape)?;
        let renewal = match suite.tls13().zip(traffic_secret) {
            Some((suite, secret)) => Some(Renewal::new(suite, &secret)?),
            None => None,
        };
        Ok(Self { renewal, ..keys })
    }

    /// Goes over to the next keys, from record number 0 on (RFC 8446, section 7.2).
    ///
    /// # Errors
    /// [`Fault::Internal`] where there are none.
    pub fn renew(&mut self) -> Result<(), Fault> {
        let mut renewal = self.renewal.take().ok_or(Fault::Internal)?;
        let (mut key, mut iv) = (Zeroizing::new([0; KEY_MAX]), [0; NONCE]);
        let key = &mut key[..self.algorithm.key_len()];
        renewal.next(key, &mut iv)?;
        *self = Self {
            renewal: Some(renewal),
            ..Self::with_key(self.algorithm, key, &iv, 0, self.shape)?
        };
        Ok(())
    }

    /// Keeps only what the keys can be made ready from again.
    pub fn rest(&mut self) {
        self.ready = None;
    }

    fn ready(&mut self) -> Result<&LessSafeKey, Fault> {
        if self.ready.is_none() {
            let key = &self.key[..self.algorithm.key_len()];
            self.ready = Some(made_ready(self.algorithm, key)?);
        }
        self.ready.as_ref().ok_or(Fault::Internal)
    }

    fn with_key(
        algorithm: &'static Algorithm,
        key: &[u8],
        iv: &[u8],
        sequence: u64,
        shape: Shape,
    ) -> Result<Self, Fault> {
        let limit = if algorithm == &CHACHA20_POLY1305 {
            u64::MAX
        } else {
            AES_GCM_RECORDS_MAX
        };
        let mut own = Zeroizing::new([0; KEY_MAX]);
        own.get_mut(..key.len())
            .ok_or(Fault::Internal)?
            .copy_from_slice(key);
        Ok(Self {
            ready: Some(made_ready(algorithm, key)?),
            algorithm,
            key: own,
            iv: iv.try_into().map_err(|_| Fault::Internal)?,
            sequence,
            limit,
            shape,
            renewal: None,
        })
    }

    /// TLS 1.3 keys of AES-128-GCM from outside, which rustls has no public constructor for.
    #[cfg(test)]
    pub fn aes128_tls13(key: &[u8], iv: &[u8], sequence: u64) -> Self {
        Self::with_key(&AES_128_GCM, key, iv, sequence, Shape::Tls13).expect("a key of 16 bytes")
    }

    /// Bytes that a record has in front of its content.
    pub fn front(&self) -> usize {
        match self.shape {
            Shape::Tls12Gcm => TLS_RECORD_HEADER + EXPLICIT_NONCE,
            Shape::Tls13 | Shape::Tls12ChaCha => TLS_RECORD_HEADER,
        }
    }

    /// Bytes that a record has behind its content.
    pub fn back(&self) -> usize {
        match self.shape {
            Shape::Tls13 => 1 + TAG,
            Shape::Tls12Gcm | Shape::Tls12ChaCha => TAG,
        }
    }

    /// Records that may still be sealed with these keys.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.sequence)
    }

    #[cfg(test)]
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Seals the content of `record`, which has room for what goes around it: [`Protection::front`]
    /// and [`Protection::back`] bytes.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] when these keys have sealed as much as they may.
    ///
    /// # Panics
    /// If the record is shorter than what goes around the content.
    pub fn seal(&mut self, record: &mut [u8], kind: ContentType) -> Result<(), Fault> {
        if self.left() == 0 {
            return Err(Fault::Exhausted);
        }
        let (front, back) = (self.front(), self.back());
        let body = record.len() - TLS_RECORD_HEADER;
        let (head, rest) = record.split_at_mut(front);
        let (content, behind) = rest.split_at_mut(rest.len() - back);
        let nonce = self.nonce();
        let outer = if self.shape == Shape::Tls13 {
            ContentType::ApplicationData
        } else {
            kind
        };
        head[0] = outer.into();
        head[1..3].copy_from_slice(&WIRE_VERSION);
        head[3..5].copy_from_slice(&(body as u16).to_be_bytes());
        let sealed = match self.shape {
            Shape::Tls13 => {
                let aad: [u8; TLS_RECORD_HEADER] =
                    head.try_into().expect("a TLS 1.3 front is the header");
                let kind = [u8::from(kind)];
                self.ready()?.seal_in_place_scatter(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    content,
                    &kind,
                    behind,
                )
            }
            Shape::Tls12Gcm | Shape::Tls12ChaCha => {
                let aad = self.aad12(kind, content.len());
                head[TLS_RECORD_HEADER..].copy_from_slice(&nonce[NONCE - (front - 5)..]);
                self.ready()?.seal_in_place_scatter(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    content,
                    &[],
                    behind,
                )
            }
        };
        sealed.map_err(|_| Fault::Internal)?;
        self.sequence += 1;
        Ok(())
    }

    /// Opens a whole record, and says what it is and where its content lies in it.
    ///
    /// # Errors
    /// The [`Fault`] that ends the session.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Fault> {
        let (front, outer) = (self.front(), ContentType::from(record[0]));
        if self.shape == Shape::Tls13 && outer != ContentType::ApplicationData {
            // An alert or ChangeCipherSpec in the clear has no place behind the handshake (RFC 8446, section 5).
            return Err(Fault::Unexpected);
        }
        let Some(content_end) = record.len().checked_sub(TAG).filter(|end| *end >= front) else {
            return Err(Fault::BadRecordMac);
        };
        let mut nonce = self.nonce();
        let (head, rest) = record.split_at_mut(front);
        let (content, tag) = rest.split_at_mut(content_end - front);
        let opened = match self.shape {
            Shape::Tls13 => {
                let aad: [u8; TLS_RECORD_HEADER] =
                    (&*head).try_into().expect("a TLS 1.3 front is the header");
                self.ready()?.open_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    tag,
                    content,
                )
            }
            Shape::Tls12Gcm | Shape::Tls12ChaCha => {
                let explicit = front - TLS_RECORD_HEADER;
                nonce[NONCE - explicit..].copy_from_slice(&head[TLS_RECORD_HEADER..]);
                if explicit > 0 {
                    nonce[..NONCE - explicit].copy_from_slice(&self.iv[..NONCE - explicit]);
                }
                let aad = self.aad12(outer, content.len());
                self.ready()?.open_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    tag,
                    content,
                )
            }
        };
        let content = opened.map_err(|_| Fault::BadRecordMac)?;
        self.sequence = self.sequence.checked_add(1).ok_or(Fault::Exhausted)?;
        if self.shape != Shape::Tls13 {
            return if content.len() > TLS_PLAINTEXT_MAX {
                Err(Fault::Overflow)
            } else {
                Ok((outer, front..content_end))
            };
        }
        // The type is the last byte that is not padding (RFC 8446, section 5.4).
        let padded = content.len();
        let at = content
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(Fault::Unexpected)?;
        if padded > TLS13_PADDED_MAX || at > TLS_PLAINTEXT_MAX {
            return Err(Fault::Overflow);
        }
        Ok((ContentType::from(content[at]), front..front + at))
    }

    /// The longest body that a record may have.
    pub fn body_max(&self) -> usize {
        match self.shape {
            // RFC 8446, section 5.2.
            Shape::Tls13 => TLS_PLAINTEXT_MAX + 256,
            // RFC 5246, section 6.2.3 allows 2^14 + 2048, but no suite here adds more than this.
            Shape::Tls12Gcm | Shape::Tls12ChaCha => TLS_PLAINTEXT_MAX + EXPLICIT_NONCE + TAG,
        }
    }

    /// RFC 8446, section 5.3; the same in RFC 7905, and rustls does the same for RFC 5288.
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE - 8..]
            .iter_mut()
            .zip(self.sequence.to_be_bytes())
        {
            *byte ^= number;
        }
        nonce
    }

    /// RFC 5246, section 6.2.3.3.
    fn aad12(&self, kind: ContentType, length: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8] = kind.into();
        aad[9..11].copy_from_slice(&WIRE_VERSION);
        aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
        aad
    }
}
