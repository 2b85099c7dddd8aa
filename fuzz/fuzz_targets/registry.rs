//! The device registry: whole or refused, and every bad line named; what is accepted can be looked up.

#![no_main]

use std::path::Path;

use adit::table::{DeviceRegistry, DeviceState};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
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
