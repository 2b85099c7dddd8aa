//! Watches the frames that a client sends in an HTTP/2 session, for those that cost the gateway
//! more than the client.
//!
//! It sees each byte before the protocol's own code does, at any split, and allocates only for
//! header blocks, which are bounded. A block that is too large for a request is that request's end
//! (431) and not the session's, unless it comes again and again or is of a size that nobody sends
//! who means well. What a frame means, and whether it is allowed at all, is not its business: a
//! session with broken framing is ended by the protocol's own code.

use std::time::Instant;

use crate::limits::{
    HTTP2_BLOCK_MAX, HTTP2_CONTINUATIONS_MAX, HTTP2_CREDIT_BYTES, HTTP2_EMPTY_DATA,
    HTTP2_FIELDS_MAX, HTTP2_IGNORED, HTTP2_LARGE_BLOCKS, HTTP2_PINGS, HTTP2_REFUSALS, HTTP2_RESETS,
    HTTP2_SETTINGS, REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX,
};
use crate::observe::Abuse;

/// Bytes that a client sends before its first frame (RFC 9113, section 3.4).
const PREFACE: u32 = 24;

/// Bytes of a frame's header (RFC 9113, section 4.1).
const HEADER: usize = 9;

// Frame types (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Watches one session.
#[derive(Debug)]
pub struct FrameGuard {
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the current payload, or of the preface, that are still to come.
    left: u32,
    /// The header block that is being sent: HEADERS without END_HEADERS, so far.
    block: Option<HeaderBlock>,
    resets: Bucket,
    settings: Bucket,
    pings: Bucket,
    empty_data: Bucket,
    ignored: Bucket,
    large_blocks: Bucket,
    refusals: Bucket,
    credit: u32,
    acknowledged: bool,
    /// Type of the frame that began last.
    latest: u8,
}

#[derive(Debug, Default)]
struct HeaderBlock {
    bytes: Vec<u8>,
    continuations: u32,
    /// Of the frame that is being read: its padding, once it is known, and what comes before its
    /// part of the block.
    flags: u8,
}

impl FrameGuard {
    /// A session of which nothing has been seen.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            left: PREFACE,
            block: None,
            resets: Bucket::new(HTTP2_RESETS, now),
            settings: Bucket::new(HTTP2_SETTINGS, now),
            pings: Bucket::new(HTTP2_PINGS, now),
            empty_data: Bucket::new(HTTP2_EMPTY_DATA, now),
            ignored: Bucket::new(HTTP2_IGNORED, now),
            large_blocks: Bucket::new(HTTP2_LARGE_BLOCKS, now),
            refusals: Bucket::new(HTTP2_REFUSALS, now),
            credit: 0,
            acknowledged: false,
            latest: SETTINGS,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What the client does that it must not; the session is to be ended.
    pub fn push(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let count = bytes.len().min(self.left as usize);
                self.payload(&bytes[..count])?;
                bytes = &bytes[count..];
                self.left -= count as u32;
                if self.left == 0 {
                    self.frame_ended(now)?;
                }
                continue;
            }
            let count = bytes.len().min(HEADER - self.have);
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.left = u32::from_be_bytes([0, a, b, c]);
                self.frame(kind, flags, now)?;
                if self.left == 0 {
                    self.frame_ended(now)?;
                }
            }
        }
        Ok(())
    }

    /// A frame begins.
    fn frame(&mut self, kind: u8, flags: u8, now: Instant) -> Result<(), Abuse> {
        self.latest = kind;
        match kind {
            DATA if self.left == 0 && flags & END_STREAM == 0 => {
                self.empty_data.take(now, Abuse::EmptyData)
            }
            DATA => {
                self.credited(self.left);
                Ok(())
            }
            HEADERS => {
                self.block = Some(HeaderBlock {
                    flags,
                    ..HeaderBlock::default()
                });
                Ok(())
            }
            CONTINUATION => match &mut self.block {
                Some(block) => {
                    block.continuations += 1;
                    block.flags = flags & END_HEADERS;
                    if block.continuations > HTTP2_CONTINUATIONS_MAX {
                        return Err(Abuse::Continuations);
                    }
                    Ok(())
                }
                None => Ok(()),
            },
            RST_STREAM => self.resets.take(now, Abuse::Resets),
            SETTINGS if flags & ACK == 0 => self.settings.take(now, Abuse::Settings),
            SETTINGS => {
                self.acknowledged = true;
                Ok(())
            }
            PING if flags & ACK == 0 => self.pings.take(now, Abuse::Pings),
            PING | WINDOW_UPDATE | GOAWAY => Ok(()),
            _ => self.ignored.take(now, Abuse::Ignored),
        }
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), Abuse> {
        let Some(block) = &mut self.block else {
            return Ok(());
        };
        if block.bytes.len() + bytes.len() > HTTP2_BLOCK_MAX + FRAME_EXTRA {
            return Err(Abuse::HeaderBomb);
        }
        block.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn frame_ended(&mut self, now: Instant) -> Result<(), Abuse> {
        let Some(block) = &mut self.block else {
            return Ok(());
        };
        if block.continuations == 0 {
            block.strip();
        }
        if block.flags & END_HEADERS == 0 {
            return Ok(());
        }
        let (fields, bytes) = (fields_of(&block.bytes), block.bytes.len());
        self.block = None;
        if fields > HTTP2_FIELDS_MAX {
            return Err(Abuse::HeaderBomb);
        }
        if fields > REQUEST_HEADERS_MAX || bytes > REQUEST_HEADER_MAX {
            return self.large_blocks.take(now, Abuse::HeaderBomb);
        }
        Ok(())
    }

    /// Returns whether the client has acknowledged SETTINGS since this was asked last.
    pub fn take_acknowledged(&mut self) -> bool {
        std::mem::take(&mut self.acknowledged)
    }

    /// The abuse that the frame which came last is a part of, where the protocol's own code finds
    /// that it is one too many.
    #[must_use]
    pub fn suspected(&self) -> Abuse {
        match self.latest {
            DATA => Abuse::EmptyData,
            CONTINUATION => Abuse::Continuations,
            _ => Abuse::Resets,
        }
    }

    /// DATA frames went to the client. Clients measure their round trip with a PING for what they
    /// receive, one at a time: on a short way that is one for each frame.
    pub fn sent(&mut self, frames: u32) {
        self.pings.add(frames);
    }

    /// So many requests were refused.
    ///
    /// # Errors
    /// They are too many; the session is to be ended.
    pub fn refused(&mut self, requests: u32, now: Instant) -> Result<(), Abuse> {
        (0..requests).try_for_each(|_| self.refusals.take(now, Abuse::Refusals))
    }

    /// Payload was sent: a session that works may also send more of the rest.
    fn credited(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes);
        let more = self.credit / HTTP2_CREDIT_BYTES;
        self.credit %= HTTP2_CREDIT_BYTES;
        for bucket in [
            &mut self.resets,
            &mut self.settings,
            &mut self.pings,
            &mut self.empty_data,
            &mut self.ignored,
            &mut self.refusals,
        ] {
            bucket.add(more);
        }
    }
}

/// Padding and priority of a HEADERS frame (RFC 9113, section 6.2).
const FRAME_EXTRA: usize = 1 + 5 + 255;

impl HeaderBlock {
    /// Leaves of a HEADERS frame only its part of the header block.
    fn strip(&mut self) {
        let mut start = 0;
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            padding = self.bytes.first().copied().unwrap_or_default().into();
            start += 1;
        }
        if self.flags & PRIORITY != 0 {
            start += 5;
        }
        let end = self.bytes.len().saturating_sub(padding);
        self.bytes.truncate(end);
        self.bytes.drain(..start.min(end));
    }
}

/// Header fields in a complete block (RFC 7541, section 6), without a look at what they are: a
/// field of one byte may stand for 4 KiB. Broken ones end the count; the protocol's own code ends
/// the session for them.
fn fields_of(block: &[u8]) -> usize {
    let mut rest = block;
    let mut fields = 0;
    while let Some(&first) = rest.first() {
        let read = match first {
            // Indexed.
            0x80.. => integer(rest, 7).map(|(_, rest)| rest),
            // Literal, to be remembered.
            0x40..0x80 => literal(rest, 6),
            // The size of the table: no field.
            0x20..0x40 => {
                let Some((_, after)) = integer(rest, 5) else {
                    return fields;
                };
                rest = after;
                continue;
            }
            // Literal, not to be remembered.
            _ => literal(rest, 4),
        };
        fields += 1;
        let Some(after) = read else { break };
        rest = after;
    }
    fields
}

/// Reads over a literal: its name, if it is not an index, and its value.
fn literal(bytes: &[u8], prefix: u32) -> Option<&[u8]> {
    let (index, mut rest) = integer(bytes, prefix)?;
    for _ in 0..if index == 0 { 2 } else { 1 } {
        let (length, after) = integer(rest, 7)?;
        rest = after.get(length..)?;
    }
    Some(rest)
}

/// An integer with a prefix of so many bits (RFC 7541, section 5.1), and what follows it.
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let mask = (1usize << prefix) - 1;
    let (&first, mut rest) = bytes.split_first()?;
    let mut value = usize::from(first) & mask;
    if value < mask {
        return Some((value, rest));
    }
    for shift in [0, 7, 14, 21] {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// So many at once, so many a second.
#[derive(Debug)]
struct Bucket {
    left: u32,
    burst: u32,
    per_second: u32,
    filled: Instant,
}

impl Bucket {
    fn new((burst, per_second): (u32, u32), now: Instant) -> Self {
        Self {
            left: burst,
            burst,
            per_second,
            filled: now,
        }
    }

    fn add(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.burst);
    }

    fn take(&mut self, now: Instant, abuse: Abuse) -> Result<(), Abuse> {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let more = passed * u128::from(self.per_second) / 1000;
        if more > 0 {
            self.add(u32::try_from(more).unwrap_or(u32::MAX));
            self.filled = now;
        }
        self.left = self.left.checked_sub(1).ok_or(abuse)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A guard behind the preface.
    fn guard(now: Instant) -> FrameGuard {
        let mut guard = FrameGuard::new(now);
        guard
            .push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now)
            .unwrap();
        guard
    }

    /// How many of `bytes` pass at one moment before they are too many.
    fn passes(guard: &mut FrameGuard, bytes: &[u8], now: Instant) -> (u32, Option<Abuse>) {
        for count in 0..5000 {
            if let Err(abuse) = guard.push(bytes, now) {
                // It was found in the header; what follows is read over.
                guard.push(&bytes[HEADER..], now).unwrap();
                return (count, Some(abuse));
            }
        }
        (5000, None)
    }

    #[test]
    fn each_kind_is_counted_for_itself_and_comes_again_with_time() {
        let now = Instant::now();
        let mut guard = guard(now);
        type Case<'a> = (u8, u8, &'a [u8], (u32, u32), Abuse);
        let cases: [Case<'_>; 5] = [
            (RST_STREAM, 0, &[0; 4], HTTP2_RESETS, Abuse::Resets),
            (SETTINGS, 0, &[], HTTP2_SETTINGS, Abuse::Settings),
            (PING, 0, &[0; 8], HTTP2_PINGS, Abuse::Pings),
            (DATA, 0, &[], HTTP2_EMPTY_DATA, Abuse::EmptyData),
            (2, 0, &[0; 5], HTTP2_IGNORED, Abuse::Ignored),
        ];
        for (kind, flags, payload, (burst, per_second), abuse) in cases {
            let bytes = frame(kind, flags, payload);
            assert_eq!(passes(&mut guard, &bytes, now), (burst, Some(abuse)));
            let later = now + Duration::from_secs(2);
            assert_eq!(
                passes(&mut guard, &bytes, later),
                (2 * per_second, Some(abuse))
            );
        }
        for (kind, flags, payload) in [
            (SETTINGS, ACK, &[][..]),
            (PING, ACK, &[0; 8]),
            (WINDOW_UPDATE, 0, &[0; 4]),
            (DATA, END_STREAM, &[]),
            (DATA, 0, &[1]),
        ] {
            let bytes = frame(kind, flags, payload);
            assert_eq!(passes(&mut guard, &bytes, now), (5000, None), "{kind}");
        }
    }

    #[test]
    fn what_the_protocols_own_code_refuses_is_of_the_kind_of_the_last_frame() {
        let now = Instant::now();
        let mut guard = guard(now);
        for (kind, flags, payload, abuse) in [
            (HEADERS, 0, &[0x82][..], Abuse::Resets),
            (CONTINUATION, END_HEADERS, &[0x84], Abuse::Continuations),
            (DATA, 0, &[1], Abuse::EmptyData),
            (RST_STREAM, 0, &[0; 4], Abuse::Resets),
        ] {
            let bytes = frame(kind, flags, payload);
            guard.push(&bytes, now).unwrap();
            assert_eq!(guard.suspected(), abuse, "{kind}");
        }
    }

    #[test]
    fn refused_requests_are_counted_and_payload_allows_more() {
        let now = Instant::now();
        let mut guard = guard(now);
        let (burst, per_second) = HTTP2_REFUSALS;
        guard.refused(0, now).unwrap();
        guard.refused(burst - 1, now).unwrap();
        guard.refused(1, now).unwrap();
        assert_eq!(guard.refused(1, now), Err(Abuse::Refusals));
        let data = frame(DATA, 0, &vec![0; HTTP2_CREDIT_BYTES as usize]);
        guard.push(&data, now).unwrap();
        guard.refused(1, now).unwrap();
        let later = now + Duration::from_secs(2);
        guard.refused(2 * per_second, later).unwrap();
        assert_eq!(guard.refused(1, later), Err(Abuse::Refusals));
    }

    #[test]
    fn payload_allows_more() {
        let now = Instant::now();
        let mut guard = guard(now);
        let ping = frame(PING, 0, &[0; 8]);
        assert_eq!(passes(&mut guard, &ping, now).0, HTTP2_PINGS.0);
        let data = frame(DATA, 0, &vec![0; HTTP2_CREDIT_BYTES as usize]);
        for _ in 0..3 {
            guard.push(&data, now).unwrap();
        }
        assert_eq!(passes(&mut guard, &ping, now).0, 3);
    }

    #[test]
    fn the_split_of_the_bytes_does_not_matter() {
        let now = Instant::now();
        let mut bytes = Vec::new();
        for _ in 0..HTTP2_PINGS.0 {
            bytes.extend(frame(PING, 0, b"01234567"));
            bytes.extend(frame(DATA, 0, &[6, 0, 0, 0, 0, 0, 0, 0, 0]));
            bytes.extend(frame(HEADERS, 0, &[0x82]));
            bytes.extend(frame(CONTINUATION, END_HEADERS, &[0x84]));
        }
        for size in [1, 2, 8, 9, 10, 1000] {
            let mut guard = guard(now);
            for chunk in bytes.chunks(size) {
                assert_eq!(guard.push(chunk, now), Ok(()), "{size}");
            }
            let ping = frame(PING, 0, b"01234567");
            let split: Result<(), Abuse> = ping
                .chunks(size)
                .try_for_each(|chunk| guard.push(chunk, now));
            assert_eq!(split, Err(Abuse::Pings), "{size}");
        }
    }

    #[test]
    fn header_blocks_are_bounded_in_frames_bytes_and_fields() {
        let now = Instant::now();
        let open = frame(HEADERS, 0, &[0x82]);
        let more = frame(CONTINUATION, 0, &[]);
        let mut of_frames = guard(now);
        of_frames.push(&open, now).unwrap();
        let (passed, abuse) = passes(&mut of_frames, &more, now);
        assert_eq!(
            (passed, abuse),
            (HTTP2_CONTINUATIONS_MAX, Some(Abuse::Continuations))
        );

        let mut of_bytes = guard(now);
        let long = frame(HEADERS, END_HEADERS, &vec![0xff; HTTP2_BLOCK_MAX + 300]);
        assert_eq!(of_bytes.push(&long, now), Err(Abuse::HeaderBomb));

        // 0x82: an indexed field in one byte. 0x3f e1 1f: the table's size, which is none.
        for (fields, expected) in [
            (HTTP2_FIELDS_MAX, Ok(())),
            (HTTP2_FIELDS_MAX + 1, Err(Abuse::HeaderBomb)),
        ] {
            let block = [&[0x3f, 0xe1, 0x1f], &vec![0x82; fields][..]].concat();
            let plain = frame(HEADERS, END_HEADERS, &block);
            assert_eq!(guard(now).push(&plain, now), expected);
            let around = [&[3][..], &[0; 5], &block, &[0; 3]].concat();
            let padded = frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &around);
            assert_eq!(guard(now).push(&padded, now), expected, "{fields}");
        }
    }

    #[test]
    fn large_header_blocks_end_a_session_only_where_they_are_many() {
        let now = Instant::now();
        let fields = |count| frame(HEADERS, END_HEADERS, &vec![0x82; count]);
        let of_request = fields(REQUEST_HEADERS_MAX);
        assert_eq!(passes(&mut guard(now), &of_request, now), (5000, None));
        let long = frame(
            HEADERS,
            END_HEADERS,
            &[&[0, 1, b'x', 0x7f, 0x9a, 0x7f][..], &vec![0; 16_410]].concat(),
        );
        for large in [fields(REQUEST_HEADERS_MAX + 1), long] {
            let mut guard = guard(now);
            let (burst, per_second) = HTTP2_LARGE_BLOCKS;
            for (allowed, at) in [(burst, now), (2 * per_second, now + Duration::from_secs(2))] {
                for _ in 0..allowed {
                    assert_eq!(guard.push(&large, at), Ok(()));
                }
                assert_eq!(guard.push(&large, at), Err(Abuse::HeaderBomb));
            }
        }
    }

    #[test]
    fn a_client_may_ping_for_each_frame_that_it_is_sent() {
        let now = Instant::now();
        let mut guard = guard(now);
        let ping = frame(PING, 0, &[0; 8]);
        for _ in 0..10_000 {
            guard.sent(1);
            guard.push(&ping, now).unwrap();
        }
        guard.sent(u32::MAX);
        assert_eq!(passes(&mut guard, &ping, now).0, HTTP2_PINGS.0);
        let reset = frame(RST_STREAM, 0, &[0; 4]);
        assert_eq!(passes(&mut guard, &reset, now).0, HTTP2_RESETS.0);
    }

    #[test]
    fn fields_are_counted_by_their_form_alone() {
        // RFC 7541, appendix C.2.1 to C.2.4 and C.4.1.
        for (block, fields) in [
            (&b"\x40\x0acustom-key\x0dcustom-header"[..], 1),
            (b"\x04\x0c/sample/path", 1),
            (b"\x10\x08password\x06secret", 1),
            (b"\x82", 1),
            (
                b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
                4,
            ),
            (b"", 0),
            (b"\x82\x40\x7f", 2),
            (b"\xff\xff\xff\xff\xff\xff", 1),
        ] {
            assert_eq!(fields_of(block), fields, "{block:?}");
        }
    }
}
