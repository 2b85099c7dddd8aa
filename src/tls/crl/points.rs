//! The distribution points of client certificates, on their way from the handshakes to whoever
//! fetches lists.
//!
//! A handshake that names a known one takes no lock and allocates nothing. What is new goes into a
//! bounded queue; when that is full, the next device that names it will tell.

use std::collections::HashSet;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::subject::urls;
use crate::limits::{CRL_POINTS_QUEUE, CRL_SOURCES_MAX};
use crate::table::Published;

/// The URLs that have been seen, up to [`CRL_SOURCES_MAX`].
pub struct PointsSeen {
    known: Published<HashSet<Box<str>>>,
    new: (Sender<Box<str>>, Receiver<Box<str>>),
}

impl Default for PointsSeen {
    fn default() -> Self {
        Self {
            known: Published::new(HashSet::new()),
            new: bounded(CRL_POINTS_QUEUE),
        }
    }
}

impl PointsSeen {
    /// Notes the distribution points of a certificate whose path to a group certificate has been
    /// verified.
    pub fn note(&self, certificate: &[u8]) {
        for url in urls(certificate) {
            let known =
                |known: &HashSet<Box<str>>| known.len() >= CRL_SOURCES_MAX || known.contains(url);
            if !self.known.read(known) {
                let _ = self.new.0.try_send(url.into());
            }
        }
    }

    /// All that have been noted. Not for a data core.
    pub fn all(&self) -> Vec<String> {
        let mut known = self.known.read(HashSet::clone);
        let before = known.len();
        while let Ok(url) = self.new.1.try_recv() {
            if known.len() < CRL_SOURCES_MAX {
                known.insert(url);
            }
        }
        let mut all: Vec<String> = known.iter().map(|url| String::from(&**url)).collect();
        all.sort_unstable();
        if known.len() > before {
            self.known.publish(known);
        }
        all
    }
}
