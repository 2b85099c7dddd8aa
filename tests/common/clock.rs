//! A wrong clock for one process: libfaketime's. What counts time on its own (timeouts, timers) keeps the machine's.

use std::path::PathBuf;
use std::process::Command;

use crate::common::Pki;

/// A file that says how far the clock is off.
pub struct Clock(PathBuf);

impl Clock {
    /// A clock that is so far off, such as `+900d`.
    pub fn new(pki: &Pki, offset: &str) -> Self {
        let clock = Self(pki.path("clock"));
        clock.set(offset);
        clock
    }

    pub fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    /// Lets a program go by it.
    pub fn rule(&self, command: &mut Command) {
        let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
        let library = folders
            .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
            .find(|path| path.exists())
            .expect("faketime is installed; tests/run installs it");
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }
}
