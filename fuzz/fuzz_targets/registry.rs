//! The device registry: whole or refused, and every bad line named; what is accepted can be looked up.

#![no_main]

use std::path::Path;

use adit::table::{DeviceFormat, DeviceReader, DeviceRegistry, DeviceState};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut reader = DeviceReader::new(DeviceFormat::Ndjson);
    if reader.push(text.as_bytes())
        && let Ok(changes) = reader.finish()
    {
        assert!(changes.len() <= text.lines().count());
        let registry = DeviceRegistry::default()
            .with(&changes)
            .expect("few devices");
        for (name, entry) in changes.iter() {
            assert_eq!(registry.state(name), entry.state);
        }
    }
    match DeviceRegistry::parse(text, Path::new("devices.csv")) {
        Ok(registry) => {
            assert!(registry.len() <= text.lines().count());
            for name in text.split([',', '\n']) {
                if registry.state(name) == DeviceState::Unmanaged {
                    assert_eq!(registry.user(name), None);
                }
            }
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            let lines = text.lines().count();
            assert!(error.problems.is_sorted_by(|a, b| a.line < b.line));
            assert!(
                error
                    .problems
                    .iter()
                    .all(|problem| (1..=lines).contains(&problem.line))
            );
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }
});
