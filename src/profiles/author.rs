//! Who makes a change on the command line.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// The user of this process, as `ann (uid 1000)`; for root also the one who has become it by sudo.
///
/// The name is that of `/etc/passwd`; a user who does not exist is known by the number alone.
#[must_use]
pub fn this_user() -> String {
    let Ok(process) = fs::metadata("/proc/self") else {
        return "unknown user".to_owned();
    };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let by = match process.uid() {
        // Only root's word about itself counts: any other user could set the variable.
        0 => std::env::var("SUDO_UID")
            .ok()
            .and_then(|uid| uid.parse().ok()),
        _ => None,
    };
    describe(process.uid(), by, &users)
}

fn describe(uid: u32, by: Option<u32>, users: &str) -> String {
    let shown = |uid: u32| match name_of(uid, users) {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    };
    match by {
        Some(by) => format!("{} by sudo from {}", shown(uid), shown(by)),
        None => shown(uid),
    }
}

/// The name of a user (passwd(5)); none with characters that a terminal would obey.
fn name_of(uid: u32, users: &str) -> Option<&str> {
    let line = |line: &&str| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(uid);
    let name = users.lines().find(line)?.split(':').next()?;
    let is_plain = !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control);
    is_plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_as_the_system_names_it() {
        let users = "root:x:0:0:root:/home:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbad\n\u{1b}[m:x:7:7\n";
        assert_eq!(describe(0, None, users), "root (uid 0)");
        assert_eq!(
            describe(0, Some(1000), users),
            "root (uid 0) by sudo from ann (uid 1000)"
        );
        assert_eq!(describe(1000, None, users), "ann (uid 1000)");
        assert_eq!(describe(7, None, users), "uid 7");
        assert_eq!(describe(8, None, users), "uid 8");
        assert!(this_user().contains("uid "));
    }
}
