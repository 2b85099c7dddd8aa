//! The record layer of an established session: what the peer's records mean, and records of one's
//! own.

use std::ops::Range;

use rustls::{AlertDescription, ContentType};

use super::fault::Fault;
use super::protection::Protection;
use crate::limits::{
    TLS_EMPTY_RECORDS_MAX, TLS_KEY_UPDATES_MAX, TLS_LATE_HELLO_MAX, TLS_PLAINTEXT_MAX,
    TLS_RECORD_HEADER, TLS_RENEGOTIATIONS_MAX, TLS_TICKET_MAX, TLS_WARNINGS_MAX,
};
use crate::tls::handshake::{Connection, Handshake};

/// Handshake messages that can follow a handshake (RFC 8446, section 4; RFC 5246, section 7.4).
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Bytes in front of a handshake message: its type and its length.
const MESSAGE_HEADER: usize = 4;

/// Records before the limit at which new keys are made: more than one buffer's worth.
const KEY_UPDATE_MARGIN: u64 = 64;

/// Content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Application data, at this place in the record.
    Data(Range<usize>),
    /// Something that the layer has dealt with.
    Nothing,
    /// close_notify: the peer sends no more.
    Closed,
}

/// Records of a kind that carries nothing, since the last one that did.
#[derive(Default)]
struct Idle {
    empty: u8,
    key_updates: u8,
    warnings: u8,
    renegotiations: u8,
}

/// Data that waits. In a box of its own: most sessions never have any of it.
#[derive(Default)]
struct Pending {
    /// A handshake message that came in pieces, so far.
    partial: Vec<u8>,
    /// Sealed records, to be sent before anything that is sealed later.
    outgoing: Vec<u8>,
    /// One of them answers the peer.
    answers: bool,
}

/// One end of an established session. It does no I/O: records are opened and sealed where they lie.
pub struct RecordLayer<C: Connection> {
    opening: Protection,
    sealing: Protection,
    tickets: C::Tickets,
    tls13: bool,
    pending: Option<Box<Pending>>,
    /// The peer has asked for new keys.
    update_due: bool,
    idle: Idle,
}

impl<C: Connection> RecordLayer<C> {
    /// Takes the connection of a handshake over that is done.
    ///
    /// # Errors
    /// rustls's, if it is not done or its secrets may not be extracted.
    pub fn take_over(handshake: Handshake<C>) -> Result<Self, rustls::Error> {
        let (connection, shown, outgoing) = handshake.into_parts();
        let missing = || rustls::Error::General("a session whose secrets were not shown".into());
        let suite = connection.negotiated_cipher_suite().ok_or_else(missing)?;
        let (of_peer, own) = if C::IS_SERVER {
            (shown.client, shown.server)
        } else {
            (shown.server, shown.client)
        };
        let tls13 = suite.tls13().is_some();
        if tls13 && (of_peer.is_none() || own.is_none()) {
            return Err(missing());
        }
        let (secrets, tickets) = connection.take_over()?;
        let internal = |_| rustls::Error::General("a cipher suite without a record layer".into());
        Ok(Self {
            opening: Protection::new(&secrets.rx, suite, of_peer).map_err(internal)?,
            sealing: Protection::new(&secrets.tx, suite, own).map_err(internal)?,
            tickets,
            tls13,
            pending: (!outgoing.is_empty()).then(|| {
                Box::new(Pending {
                    outgoing,
                    ..Pending::default()
                })
            }),
            update_due: false,
            idle: Idle::default(),
        })
    }

    /// Keeps only what an idle session needs; the next record makes ready what it wants.
    pub fn rest(&mut self) {
        self.opening.rest();
        self.sealing.rest();
    }

    /// Bytes of the record at the start of `bytes`, its header included; `None` where the header is
    /// not complete.
    ///
    /// # Errors
    /// [`Fault`] for a header that begins no record.
    pub fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(header) = bytes.first_chunk::<TLS_RECORD_HEADER>() else {
            return Ok(None);
        };
        let body = usize::from(u16::from_be_bytes([header[3], header[4]]));
        match header {
            [20..=23, 3, 3, ..] if body <= self.opening.body_max() => {
                Ok(Some(TLS_RECORD_HEADER + body))
            }
            [20..=23, 3, 3, ..] => Err(Fault::Overflow),
            [20..=23, ..] => Err(Fault::Decode),
            // RFC 8446, section 5; RFC 5246, section 6.
            _ => Err(Fault::Unexpected),
        }
    }

    /// Opens the record at the start of `bytes`: its length and what it carried. `None` where it is
    /// not complete.
    ///
    /// # Errors
    /// The [`Fault`] that ends the session.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Option<(usize, Content)>, Fault> {
        let Some(length) = self.record_length(bytes)?.filter(|n| *n <= bytes.len()) else {
            return Ok(None);
        };
        let record = &mut bytes[..length];
        let (kind, place) = self.opening.open(record)?;
        if kind != ContentType::Handshake
            && let Some(pending) = &self.pending
            && !pending.partial.is_empty()
        {
            // A handshake message in pieces must not be interrupted (RFC 8446, section 5.1).
            return Err(Fault::Unexpected);
        }
        let content = match kind {
            ContentType::ApplicationData if place.is_empty() => {
                count(&mut self.idle.empty, TLS_EMPTY_RECORDS_MAX)?;
                Content::Nothing
            }
            ContentType::ApplicationData => {
                self.idle = Idle::default();
                Content::Data(place)
            }
            ContentType::Alert => self.alert_received(&record[place])?,
            ContentType::Handshake => {
                self.handshake_received(&record[place])?;
                Content::Nothing
            }
            _ => return Err(Fault::Unexpected),
        };
        Ok(Some((length, content)))
    }

    fn alert_received(&mut self, alert: &[u8]) -> Result<Content, Fault> {
        const WARNING: u8 = 1;
        let &[level, description] = alert else {
            return Err(match alert {
                // RFC 8446, section 5.4; RFC 5246, section 6.2.1 forbids it too.
                [] => Fault::Unexpected,
                _ => Fault::Decode,
            });
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(Content::Closed),
            // The level means nothing in TLS 1.3: all others are fatal (RFC 8446, section 6).
            AlertDescription::UserCanceled if self.tls13 => {
                count(&mut self.idle.warnings, TLS_WARNINGS_MAX)?;
                Ok(Content::Nothing)
            }
            _ if level == WARNING && !self.tls13 => {
                count(&mut self.idle.warnings, TLS_WARNINGS_MAX)?;
                Ok(Content::Nothing)
            }
            fatal => Err(Fault::PeerAlert(fatal)),
        }
    }

    /// Handshake messages, perhaps several in one record or one in several.
    fn handshake_received(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Err(Fault::Unexpected);
        }
        while !bytes.is_empty() {
            let whole = match self.pending.as_ref().is_none_or(|p| p.partial.is_empty()) {
                true => Self::message_length(self.tls13, bytes)?.filter(|n| *n <= bytes.len()),
                false => None,
            };
            let Some(length) = whole else {
                bytes = self.part_received(bytes)?;
                continue;
            };
            let (message, rest) = bytes.split_at(length);
            self.message_received(message, rest.is_empty())?;
            bytes = rest;
        }
        Ok(())
    }

    /// Takes what belongs to a message that is not whole, copied once whatever the number of its
    /// pieces. What is behind it.
    fn part_received<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Fault> {
        let mut partial = std::mem::take(&mut self.pending.get_or_insert_default().partial);
        let mut rest = bytes;
        for known in [false, true] {
            let wanted = match known {
                false => MESSAGE_HEADER,
                true => match Self::message_length(self.tls13, &partial)? {
                    Some(length) => length,
                    None => break,
                },
            };
            let missing = wanted.saturating_sub(partial.len());
            let (part, behind) = rest.split_at(missing.min(rest.len()));
            partial.extend_from_slice(part);
            rest = behind;
            if known && partial.len() == wanted {
                self.message_received(&partial, rest.is_empty())?;
                partial.clear();
            }
        }
        if partial.is_empty() {
            self.drop_if_empty();
        } else {
            self.pending.get_or_insert_default().partial = partial;
        }
        Ok(rest)
    }

    /// Bytes of the handshake message that begins here, its header included; `None` where the
    /// header is not complete.
    ///
    /// # Errors
    /// [`Fault`] for a message that has no place here or cannot be so long: nothing of it is kept.
    fn message_length(tls13: bool, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(&[kind, a, b, c]) = bytes.first_chunk::<MESSAGE_HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let fits = match (kind, tls13) {
            (KEY_UPDATE, true) => length == 1,
            (NEW_SESSION_TICKET, true) if !C::IS_SERVER => length <= TLS_TICKET_MAX,
            (CLIENT_HELLO, false) if C::IS_SERVER => length <= TLS_LATE_HELLO_MAX,
            (HELLO_REQUEST, false) if !C::IS_SERVER => length == 0,
            _ => return Err(Fault::Unexpected),
        };
        match fits {
            true => Ok(Some(MESSAGE_HEADER + length)),
            false => Err(Fault::Decode),
        }
    }

    /// One handshake message with its header, of a kind that [`Self::message_length`] lets through;
    /// `last`: nothing follows it in its record.
    fn message_received(&mut self, message: &[u8], last: bool) -> Result<(), Fault> {
        let (header, body) = message.split_at(MESSAGE_HEADER);
        match header[0] {
            KEY_UPDATE => self.key_update_received(body, last),
            NEW_SESSION_TICKET => C::ticket_received(&mut self.tickets, body),
            _ => self.renegotiation_requested(),
        }
    }

    /// RFC 5746, section 5 and RFC 5246, section 7.2.2: no renegotiation, and the session goes on.
    /// Not where the peer does not read the refusal that it was given: refusals do not pile up.
    fn renegotiation_requested(&mut self) -> Result<(), Fault> {
        count(&mut self.idle.renegotiations, TLS_RENEGOTIATIONS_MAX)?;
        if self.pending.as_ref().is_some_and(|pending| pending.answers) {
            return Err(Fault::Unexpected);
        }
        self.queue_alert(AlertDescription::NoRenegotiation)?;
        self.pending.get_or_insert_default().answers = true;
        Ok(())
    }

    /// RFC 8446, section 4.6.3.
    fn key_update_received(&mut self, message: &[u8], last: bool) -> Result<(), Fault> {
        let &[requested] = message else {
            return Err(Fault::Decode);
        };
        if !last {
            // What follows in the same record would be under the old keys.
            return Err(Fault::Unexpected);
        }
        count(&mut self.idle.key_updates, TLS_KEY_UPDATES_MAX)?;
        match requested {
            0 => {}
            // One answer that is not sent yet answers all that have come since.
            1 => self.update_due |= !self.owes_answer(),
            _ => return Err(Fault::IllegalParameter),
        }
        self.opening.renew()
    }

    /// Bytes that a sealed record has in front of and behind its content.
    pub fn around(&self) -> (usize, usize) {
        (self.sealing.front(), self.sealing.back())
    }

    /// Makes ready to seal a buffer's worth of records: new keys, if the peer has asked for them or
    /// these are nearly used up. What is to be sent first comes back, empty most of the time.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn before_sealing(&mut self) -> Result<Vec<u8>, Fault> {
        let near = self.sealing.left() <= KEY_UPDATE_MARGIN;
        if self.tls13 && (self.update_due || near) {
            self.update_due = false;
            const NOT_REQUESTED: u8 = 0;
            self.queue(
                ContentType::Handshake,
                &[KEY_UPDATE, 0, 0, 1, NOT_REQUESTED],
            )?;
            self.sealing.renew()?;
        }
        Ok(self.take_outgoing())
    }

    /// Returns whether the peer has asked for something (new keys, a renegotiation) and has no
    /// answer yet. It is in what [`RecordLayer::before_sealing`] gives, and need not wait for data.
    pub fn owes_answer(&self) -> bool {
        self.update_due || self.pending.as_ref().is_some_and(|pending| pending.answers)
    }

    /// Takes back what could not be sent of what [`RecordLayer::before_sealing`] gave, before
    /// anything else is sealed.
    pub fn not_sent(&mut self, rest: Vec<u8>) {
        if !rest.is_empty() {
            let pending = self.pending.get_or_insert_default();
            (pending.outgoing, pending.answers) = (rest, true);
        }
    }

    /// Seals application data in place. `records` holds the content with [`RecordLayer::around`]
    /// bytes of room around each piece of [`TLS_PLAINTEXT_MAX`] bytes, the last one perhaps
    /// shorter.
    ///
    /// # Errors
    /// [`Fault::Exhausted`].
    pub fn seal(&mut self, records: &mut [u8]) -> Result<(), Fault> {
        let (front, back) = self.around();
        for record in records.chunks_mut(front + TLS_PLAINTEXT_MAX + back) {
            self.sealing.seal(record, ContentType::ApplicationData)?;
        }
        Ok(())
    }

    /// Seals application data into records of their own.
    ///
    /// # Errors
    /// [`Fault::Exhausted`].
    pub fn seal_message(&mut self, message: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut records = self.before_sealing()?;
        for piece in message.chunks(TLS_PLAINTEXT_MAX) {
            self.append(&mut records, ContentType::ApplicationData, piece)?;
        }
        Ok(records)
    }

    /// close_notify, behind whatever is to be sent before it.
    ///
    /// # Errors
    /// [`Fault::Exhausted`].
    pub fn close_notify(&mut self) -> Result<Vec<u8>, Fault> {
        self.queue_alert(AlertDescription::CloseNotify)?;
        self.before_sealing()
    }

    /// The fatal alert for what ends the session, behind whatever is to be sent before it.
    ///
    /// # Errors
    /// [`Fault::Exhausted`].
    pub fn fatal(&mut self, alert: AlertDescription) -> Result<Vec<u8>, Fault> {
        const FATAL: u8 = 2;
        self.queue(ContentType::Alert, &[FATAL, alert.into()])?;
        Ok(self.take_outgoing())
    }

    fn queue_alert(&mut self, alert: AlertDescription) -> Result<(), Fault> {
        const WARNING: u8 = 1;
        self.queue(ContentType::Alert, &[WARNING, alert.into()])
    }

    fn queue(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Fault> {
        let answers = self.pending.as_ref().is_some_and(|pending| pending.answers);
        let mut outgoing = self.take_outgoing();
        let result = self.append(&mut outgoing, kind, content);
        let pending = self.pending.get_or_insert_default();
        (pending.outgoing, pending.answers) = (outgoing, answers);
        result
    }

    fn take_outgoing(&mut self) -> Vec<u8> {
        let Some(pending) = &mut self.pending else {
            return Vec::new();
        };
        let outgoing = std::mem::take(&mut pending.outgoing);
        pending.answers = false;
        self.drop_if_empty();
        outgoing
    }

    fn drop_if_empty(&mut self) {
        let empty = |pending: &Pending| pending.partial.is_empty() && pending.outgoing.is_empty();
        if self.pending.as_deref().is_some_and(empty) {
            self.pending = None;
        }
    }

    fn append(
        &mut self,
        records: &mut Vec<u8>,
        kind: ContentType,
        content: &[u8],
    ) -> Result<(), Fault> {
        let (front, back) = self.around();
        let start = records.len();
        records.resize(start + front, 0);
        records.extend_from_slice(content);
        records.resize(start + front + content.len() + back, 0);
        self.sealing.seal(&mut records[start..], kind)
    }

    #[cfg(test)]
    pub(super) fn set_sealing_limit(&mut self, limit: u64) {
        self.sealing.set_limit(limit);
    }
}

fn count(counter: &mut u8, max: u8) -> Result<(), Fault> {
    *counter += 1;
    if *counter > max {
        return Err(Fault::Unexpected);
    }
    Ok(())
}
