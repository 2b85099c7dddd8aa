//! The record path of a session, without I/O: ciphertext in a buffer of the ring becomes plaintext in the same buffer,
//! and the other way round.
//!
//! rustls 0.23 hands each opened or sealed record out in memory of its own; the copy back into the ring's buffer, which
//! bounds what a session holds to one buffer a direction, goes through two scratch areas of the thread.

use std::cell::RefCell;
use std::ops::Deref;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};

use crate::limits::{TLS_RECORD_HEADER, TLS_SCRATCH};
use crate::ring::RingBuf;

thread_local! {
    /// What was opened. Apart from `SEALED`, so that neither has to be cleared for the other's use.
    static OPENED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(TLS_SCRATCH));
    /// Room for what is sealed; always `TLS_SCRATCH` long.
    static SEALED: RefCell<Vec<u8>> = RefCell::new(vec![0; TLS_SCRATCH]);
}

/// What the peer's records have led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The handshake needs more from the peer.
    Handshaking,
    /// Application data flows.
    Established,
    /// The peer has said close_notify.
    PeerClosed,
}

/// Either end of a rustls connection; the two have the same methods and no trait in common.
pub trait Connection: Deref<Target: Deref<Target = CommonState>> {
    /// rustls's data of this end.
    type Data;

    /// `process_tls_records` of this end.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// One end of one TLS session.
pub(super) struct Records<C> {
    connection: C,
    /// Records made while reading (handshake flights, alerts, tickets), in the order of their sequence numbers; they
    /// precede whatever is sealed next.
    outgoing: Vec<u8>,
}

impl<C: Connection> Records<C> {
    pub fn new(connection: C) -> Self {
        Self {
            connection,
            outgoing: Vec::new(),
        }
    }

    /// Queues what this end says first: a client's hello.
    pub fn begin(&mut self) -> Result<(), rustls::Error> {
        loop {
            match self.connection.process(&mut []).state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.outgoing, |room| data.encode(room));
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Ok(()),
            }
        }
    }

    /// The rustls connection, for what it knows about the session.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// Takes what has to be sent before anything else.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Works through the records in `input` and consumes those that are complete. `plaintext` gets the opened bytes.
    ///
    /// # Errors
    /// rustls's; the alert that goes with it, if any, is in the outgoing records.
    fn read(
        &mut self,
        input: &mut RingBuf,
        plaintext: &mut Vec<u8>,
    ) -> Result<Progress, rustls::Error> {
        loop {
            let status = self.connection.process(input);
            let mut discard = status.discard;
            let progress = match status.state {
                Err(error) => {
                    self.collect_alert(input);
                    return Err(error);
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.outgoing, |room| data.encode(room));
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Progress::Handshaking),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Progress::Established),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    Some(Progress::PeerClosed)
                }
                Ok(_) => return Err(rustls::Error::General("early data was not offered".into())),
            };
            input.consume(discard);
            if let Some(progress) = progress {
                if progress == Progress::Established && holds_whole_record(input) {
                    // A handshake message in pieces over several records. No client does this after the handshake, and
                    // rustls would want the pieces back with every call, also with those that only write.
                    return Err(rustls::Error::General(
                        "fragmented post-handshake message".into(),
                    ));
                }
                return Ok(progress);
            }
        }
    }

    /// Opens the records in `input`; the plaintext is left in the thread's scratch area and given to `then`, with the
    /// buffer, in which the incomplete rest stays.
    pub fn open<R>(
        &mut self,
        mut input: RingBuf,
        then: impl FnOnce(RingBuf, &[u8]) -> R,
    ) -> Result<(Progress, R), rustls::Error> {
        OPENED.with_borrow_mut(|opened| {
            opened.clear();
            let progress = self.read(&mut input, opened)?;
            Ok((progress, then(input, opened)))
        })
    }

    /// Seals the bytes of `buffer` in place, preceded by what is outgoing.
    ///
    /// # Errors
    /// If the session can no longer write, or the buffer has no room for the records' overhead.
    pub fn seal(&mut self, buffer: &mut RingBuf) -> Result<(), rustls::Error> {
        SEALED.with_borrow_mut(|scratch| {
            let sealed =
                self.write(|mut traffic| traffic.encrypt(buffer, scratch).map_err(describe))?;
            let outgoing = std::mem::take(&mut self.outgoing);
            buffer.consume(buffer.len());
            buffer.compact();
            if outgoing.len() + sealed > buffer.spare() {
                return Err(rustls::Error::General(
                    "sealed records do not fit the buffer".into(),
                ));
            }
            buffer.append(&outgoing);
            buffer.append(&scratch[..sealed]);
            Ok(())
        })
    }

    /// Seals a few bytes of the gateway's own, preceded by what is outgoing.
    ///
    /// # Errors
    /// If the session can no longer write.
    pub fn seal_message(&mut self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        SEALED.with_borrow_mut(|scratch| {
            let sealed =
                self.write(|mut traffic| traffic.encrypt(message, scratch).map_err(describe))?;
            let mut records = self.take_outgoing();
            records.extend_from_slice(&scratch[..sealed]);
            Ok(records)
        })
    }

    /// Queues close_notify behind everything that was sealed.
    pub fn close_notify(&mut self) {
        let mut alert = [0u8; 64];
        if let Ok(length) =
            self.write(|mut traffic| traffic.queue_close_notify(&mut alert).map_err(describe))
        {
            self.outgoing.extend_from_slice(&alert[..length]);
        }
    }

    /// Runs `f` in the state in which application data can be written.
    fn write<R>(
        &mut self,
        f: impl FnOnce(WriteTraffic<'_, C::Data>) -> Result<R, rustls::Error>,
    ) -> Result<R, rustls::Error> {
        loop {
            match self.connection.process(&mut []).state? {
                ConnectionState::WriteTraffic(traffic) => return f(traffic),
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.outgoing, |room| data.encode(room));
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                // Said once, before the writing state is reached again.
                ConnectionState::PeerClosed => {}
                _ => {
                    return Err(rustls::Error::General(
                        "the session is closed for writing".into(),
                    ));
                }
            }
        }
    }

    /// After an error: takes what rustls has queued up to the alert for it. Not a step further: rustls must not be given
    /// the same bytes again once it has sent a fatal alert.
    fn collect_alert(&mut self, input: &mut RingBuf) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.connection.process(input).state
        {
            let start = self.outgoing.len();
            append(&mut self.outgoing, |room| data.encode(room));
            if is_alert(&self.outgoing[start..]) {
                break;
            }
        }
    }
}

/// Whether a record is an alert: by its type, or, where TLS 1.3 hides the type, by its length, which no other message
/// has (RFC 8446, sections 5.2 and 6: level, description, content type and a tag of 16 bytes).
fn is_alert(record: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const APPLICATION_DATA: u8 = 23;
    match record.first() {
        Some(&ALERT) => true,
        Some(&APPLICATION_DATA) => record.len() == TLS_RECORD_HEADER + 2 + 1 + 16,
        _ => false,
    }
}

/// Whether the bytes begin with a complete record (RFC 8446, section 5.1).
fn holds_whole_record(bytes: &[u8]) -> bool {
    bytes.len() >= TLS_RECORD_HEADER
        && bytes.len() >= TLS_RECORD_HEADER + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

fn describe(error: EncryptError) -> rustls::Error {
    match error {
        EncryptError::InsufficientSize(_) => {
            rustls::Error::General("no room for the record's overhead".into())
        }
        EncryptError::EncryptExhausted => rustls::Error::EncryptError,
    }
}

/// Appends what `encode` writes, with as much room as it asks for.
fn append(target: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = target.len();
    let mut room = 1024;
    loop {
        target.resize(start + room, 0);
        match encode(&mut target[start..]) {
            Ok(length) => return target.truncate(start + length),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(_) => return target.truncate(start),
        }
    }
}
