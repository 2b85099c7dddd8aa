//! The handshake, driven over rustls's unbuffered connection.
//!
//! rustls is given one record more at a time, so that it never sees what comes behind the
//! handshake: that is the record layer's ([`super::record`]).

use std::ops::Deref;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, ExtractedSecrets, ProtocolVersion};

use super::notes::{Notes, noted};
use super::record::Fault;
use super::secrets::TrafficSecrets;
use crate::limits::TLS_RECORD_HEADER;

/// Either end of a rustls connection; the two have the same methods and no trait in common.
pub trait Connection: Deref<Target: Deref<Target = CommonState>> {
    /// rustls's data of this end.
    type Data;

    /// State of this end for session tickets.
    type Tickets;

    /// Which end it is.
    const IS_SERVER: bool;

    /// `process_tls_records` of this end.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// `dangerous_into_kernel_connection` of this end.
    ///
    /// # Errors
    /// rustls's, if the handshake is not done.
    fn take_over(self) -> Result<(ExtractedSecrets, Self::Tickets), rustls::Error>;

    /// Takes note of a session ticket, which only a client may be given.
    ///
    /// # Errors
    /// [`Fault`], if it has no place here or does not parse.
    fn ticket_received(tickets: &mut Self::Tickets, ticket: &[u8]) -> Result<(), Fault>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    type Tickets = ();
    const IS_SERVER: bool = true;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn take_over(self) -> Result<(ExtractedSecrets, Self::Tickets), rustls::Error> {
        let (secrets, _) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, ()))
    }

    fn ticket_received(_tickets: &mut Self::Tickets, _ticket: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unexpected)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    type Tickets = Box<KernelConnection<ClientConnectionData>>;
    const IS_SERVER: bool = false;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn take_over(self) -> Result<(ExtractedSecrets, Self::Tickets), rustls::Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(connection)))
    }

    fn ticket_received(tickets: &mut Self::Tickets, ticket: &[u8]) -> Result<(), Fault> {
        tickets
            .handle_new_session_ticket(ticket)
            .map_err(|_| Fault::Decode)
    }
}

/// One end of one handshake. It does no I/O.
pub struct Handshake<C> {
    connection: C,
    secrets: TrafficSecrets,
    /// Records to be sent: flights, tickets, an alert.
    outgoing: Vec<u8>,
    /// Bytes at the start of the input that rustls has worked through and wants again: whole
    /// records of a message that is not complete. What is there of a record that is not whole is
    /// never among them, for rustls has taken nothing of it.
    seen: usize,
    notes: Notes,
}

impl<C: Connection> Handshake<C> {
    /// A handshake in which nothing has been said.
    pub fn new(connection: C) -> Self {
        Self {
            connection,
            secrets: TrafficSecrets::default(),
            outgoing: Vec::new(),
            seen: 0,
            notes: Notes::default(),
        }
    }

    /// Queues what this end says first: a client's hello.
    ///
    /// # Errors
    /// rustls's.
    pub fn begin(&mut self) -> Result<(), rustls::Error> {
        self.step(&mut []).map(|_| ())
    }

    /// The rustls connection, for what it knows about the session.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// The rustls connection, the traffic secrets, and what is still to be sent, when the handshake
    /// is done.
    pub fn into_parts(self) -> (C, TrafficSecrets, Vec<u8>) {
        (self.connection, self.secrets, self.outgoing)
    }

    /// Returns whether what is queued when the handshake is done may go with the answer to what has
    /// come behind it. In TLS 1.3 a server's is session tickets (RFC 8446, section 4.6.1), of no
    /// use to the client before its next session; all else ends a flight.
    pub fn may_wait(&self) -> bool {
        C::IS_SERVER && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Takes what has to be sent.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Takes what the handshake has shown of the client so far.
    pub fn take_notes(&mut self) -> Notes {
        std::mem::take(&mut self.notes)
    }

    /// Works through the handshake's records in `input`. How many of its bytes are done with, and
    /// whether the handshake is. What is left then comes behind it, and is an incomplete record or
    /// message otherwise, to be given again with more.
    ///
    /// # Errors
    /// rustls's; the alert that goes with it, if any, is in the outgoing records.
    pub fn read(&mut self, input: &mut [u8]) -> Result<(usize, bool), rustls::Error> {
        let (result, notes) = noted(|| self.read_records(input));
        self.notes.add(notes);
        result
    }

    fn read_records(&mut self, input: &mut [u8]) -> Result<(usize, bool), rustls::Error> {
        let mut used = 0;
        loop {
            let rest = &input[used + self.seen..];
            let whole = record_length(rest).filter(|length| *length <= rest.len());
            // A record that is not whole is shown too, so that rustls says at once what is wrong with its header.
            let window = used + self.seen + whole.unwrap_or(rest.len());
            let (more, done) = match self.step(&mut input[used..window]) {
                Ok(step) => step,
                Err(error) => {
                    self.collect_alert(&mut input[used..window]);
                    return Err(error);
                }
            };
            let end = if whole.is_some() {
                window
            } else {
                used + self.seen
            };
            used += more;
            self.seen = end.saturating_sub(used);
            if done || window == input.len() {
                return Ok((used, done));
            }
        }
    }

    /// Gives rustls `window` until it wants more. Bytes that it is done with, and whether the
    /// handshake is.
    fn step(&mut self, window: &mut [u8]) -> Result<(usize, bool), rustls::Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process(&mut window[used..]);
            self.secrets.take_shown();
            used += discard;
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.outgoing, |room| data.encode(room));
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake => return Ok((used, false)),
                ConnectionState::WriteTraffic(_) => {
                    return Ok((used, !self.connection.is_handshaking()));
                }
                _ => {
                    return Err(rustls::Error::General(
                        "the peer ended the handshake before it was done".into(),
                    ));
                }
            }
        }
    }

    /// After an error: takes what rustls has queued up to the alert for it. Not a step further:
    /// rustls must not be given the same bytes again once it has sent a fatal alert.
    fn collect_alert(&mut self, input: &mut [u8]) {
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

/// Returns whether a record is an alert: by its type, or, where TLS 1.3 hides the type, by its
/// length, which no other message has (RFC 8446, sections 5.2 and 6: level, description, content
/// type and a tag of 16 bytes).
fn is_alert(record: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const APPLICATION_DATA: u8 = 23;
    match record.first() {
        Some(&ALERT) => true,
        Some(&APPLICATION_DATA) => record.len() == TLS_RECORD_HEADER + 2 + 1 + 16,
        _ => false,
    }
}

/// Bytes of the record that begins here, its header included (RFC 8446, section 5.1); `None` where
/// the header is not complete or is none.
fn record_length(bytes: &[u8]) -> Option<usize> {
    match bytes.first_chunk::<TLS_RECORD_HEADER>()? {
        [_, 3, _, a, b] => Some(TLS_RECORD_HEADER + usize::from(u16::from_be_bytes([*a, *b]))),
        _ => None,
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
