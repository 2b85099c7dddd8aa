//! Several runs of shared bytes in one send, so that nothing is copied to make them adjoin.

use bytes::Bytes;

use super::pieces::{Left, ToSend};

/// Most runs of one system call: the pieces of a large buffer, and the headers between them, are
/// fewer.
const VECTORS: usize = 16;

/// Runs of bytes that are sent one after the other.
#[derive(Default)]
pub struct Gather {
    runs: Vec<Bytes>,
    /// Runs that have been sent wholly.
    sent: usize,
    len: usize,
    /// Message header for the kernel; on the heap, so that it stays in place while a send is under
    /// way.
    message: Option<Box<Message>>,
}

struct Message {
    header: libc::msghdr,
    vectors: [libc::iovec; VECTORS],
}

impl Gather {
    /// Most runs that one system call takes.
    pub const RUNS_AT_ONCE: usize = VECTORS;

    /// Adds a run; an empty one is left out.
    pub fn push(&mut self, run: Bytes) {
        if !run.is_empty() {
            self.len += run.len();
            self.runs.push(run);
        }
    }

    /// Bytes of all runs, those that have been sent included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| &**run)
    }

    /// The run at this place, from 0, if it has not been sent wholly.
    #[must_use]
    pub fn run(&self, index: usize) -> Option<&[u8]> {
        self.runs.get(index).map(|run| &**run)
    }

    /// How many runs there are.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }
}

impl ToSend for Gather {
    fn left(&mut self) -> Option<Left> {
        let left = &self.runs[self.sent..];
        match left {
            [] => return None,
            [run] => return Some(Left::Bytes(run.as_ptr(), run.len() as u32)),
            _ => {}
        }
        let message = self.message.get_or_insert_with(|| {
            // SAFETY: both are plain C structures for which zeros are a valid value.
            Box::new(unsafe { std::mem::zeroed() })
        });
        let count = left.len().min(VECTORS);
        for (vector, run) in message.vectors.iter_mut().zip(left) {
            vector.iov_base = run.as_ptr().cast_mut().cast();
            vector.iov_len = run.len();
        }
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        Some(Left::Message(&raw mut message.header))
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(run) = self.runs.get_mut(self.sent) {
            if count < run.len() {
                // The bytes stay where they are: only the handle moves on.
                let _ = run.split_to(count);
                return;
            }
            count -= run.len();
            *run = Bytes::new();
            self.sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what the kernel would be given now.
    fn next(gather: &mut Gather) -> Vec<u8> {
        match gather.left() {
            None => Vec::new(),
            // SAFETY: it names bytes of a run that `gather` owns.
            Some(Left::Bytes(at, len)) => unsafe {
                std::slice::from_raw_parts(at, len as usize).to_vec()
            },
            // SAFETY: the header and what it points to are owned by `gather`.
            Some(Left::Message(header)) => unsafe {
                std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen)
                    .iter()
                    .flat_map(|v| std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len))
                    .copied()
                    .collect()
            },
        }
    }

    #[test]
    fn every_byte_is_sent_once_at_any_steps() {
        for step in [1, 7, 100, 101, 5000] {
            let mut gather = Gather::default();
            let mut expected = Vec::new();
            for (index, size) in [100, 0, 1, 250, 3000]
                .into_iter()
                .chain([10; 30])
                .enumerate()
            {
                let run = vec![index as u8; size];
                expected.extend_from_slice(&run);
                gather.push(run.into());
            }
            assert_eq!((gather.len(), gather.runs()), (expected.len(), 34));
            let mut seen = Vec::new();
            loop {
                let bytes = next(&mut gather);
                if bytes.is_empty() {
                    break;
                }
                let count = step.min(bytes.len());
                seen.extend_from_slice(&bytes[..count]);
                gather.advance(count);
            }
            assert_eq!(seen, expected, "{step}");
        }
    }
}
