//! The config file: any text is a config or a list of problems, each with its place.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match adit::config::parse(text, Path::new("no-such-folder/adit.toml")) {
        Ok(config) => {
            let profile = config.profile;
            assert!(profile.is_none() || !profile.device_auth.group_certificates.is_empty());
        }
        Err(error) => assert!(error.to_string().contains("remedy")),
    }
});
