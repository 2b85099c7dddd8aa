//! The system's settings of name resolution: `/etc/resolv.conf` and `/etc/hosts`, as they stand
//! now.
//!
//! Both are looked at all the time and read again when they change, and at each reload of the
//! configuration. What is read counts as a whole or not at all: a file that is missing, empty,
//! still written or no such file leaves what was read before in effect, and the log says so.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::files::{self, Mark, Quiet};
use crate::limits::{NAME_FILE_MAX, NAME_QUERIES_RUNNING, NAME_TTL_MAX};

/// The active settings, which were read last.
#[derive(Clone, Default)]
pub(super) struct Settings {
    /// Of how many changes this is the last.
    pub generation: u64,
    /// The name servers; `None` while there have been none.
    pub servers: Option<Arc<(ResolverConfig, ResolverOpts)>>,
    /// Names of the hosts file.
    pub hosts: Arc<Hosts>,
}

/// The settings, and the files that they are read from.
pub(super) struct System {
    state: Mutex<State>,
    generation: AtomicU64,
    is_refused: AtomicBool,
}

struct State {
    servers: Watched,
    hosts: Watched,
    settings: Settings,
}

/// A file, and what is known of it.
struct Watched {
    path: PathBuf,
    /// As it was when it was read last, `None` before that.
    read: Option<Mark>,
    /// Another state.
    change: Quiet<Mark>,
    /// The content that was accepted last.
    taken: Option<String>,
    /// True if the current content cannot be accepted.
    is_refused: bool,
}

impl System {
    /// Reads these files for the first time.
    pub fn read(servers: &Path, hosts: &Path) -> Self {
        let system = Self {
            state: Mutex::new(State {
                servers: Watched::new(servers),
                hosts: Watched::new(hosts),
                settings: Settings::default(),
            }),
            generation: AtomicU64::new(0),
            is_refused: AtomicBool::new(false),
        };
        system.look(true);
        system
    }

    /// How many changes there were.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns what is in effect.
    pub fn settings(&self) -> Settings {
        self.lock().settings.clone()
    }

    /// Returns whether something else stands in the files than what is in effect, because it cannot
    /// be taken.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Reads what has changed and is quiet, or with `now` all. Asks the file system: not for a
    /// thread that answers others.
    pub fn look(&self, now: bool) {
        let mut state = self.lock();
        let State {
            servers,
            hosts,
            settings,
        } = &mut *state;
        let mut changed = false;
        if let Some((text, read)) = servers.take(now, servers_of) {
            settings.servers = Some(Arc::new(read));
            servers.has_taken(text, settings.generation);
            changed = true;
        }
        if let Some((text, read)) = hosts.take(now, hosts_of) {
            settings.hosts = Arc::new(read);
            hosts.has_taken(text, settings.generation);
            changed = true;
        }
        let is_refused = servers.is_refused || hosts.is_refused;
        self.is_refused.store(is_refused, Ordering::Relaxed);
        if changed {
            settings.generation += 1;
            self.generation
                .store(settings.generation, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            read: None,
            change: Quiet::new(),
            taken: None,
            is_refused: false,
        }
    }

    /// Reads the file, if it has changed, is quiet (or must be read `now`), and is what `parse`
    /// takes. What it does not take is logged once.
    fn take<T>(
        &mut self,
        now: bool,
        parse: impl FnOnce(&str) -> Result<T, SettingsError>,
    ) -> Option<(String, T)> {
        let mark = Mark::of(&self.path);
        let is_known = self.read == Some(mark);
        if !now && !self.change.is_due(!is_known, mark) {
            return None;
        }
        self.read = Some(mark);
        self.change.forget();
        let text = match text_of(&self.path) {
            Ok(text) if self.taken.as_ref() == Some(&text) => {
                self.is_refused = false;
                return None;
            }
            read => read,
        };
        let taken = text.and_then(|text| parse(&text).map(|parsed| (text, parsed)));
        self.is_refused = taken.is_err();
        match taken {
            Ok(taken) => Some(taken),
            Err(_) if is_known => None,
            Err(why) => {
                let path = self.path.display();
                match self.taken {
                    Some(_) => tracing::warn!(
                        "{path} {why}: its last valid content stays active, and it is read again later"
                    ),
                    None => tracing::error!(
                        "{path} {why}: names are resolved without it, and it is read again later"
                    ),
                }
                None
            }
        }
    }

    fn has_taken(&mut self, text: String, generation: u64) {
        if generation > 0 {
            tracing::info!("{} has changed and is active", self.path.display());
        }
        self.taken = Some(text);
    }
}

/// Why a file of settings is not taken; to be put behind its name.
#[derive(Debug, thiserror::Error)]
enum SettingsError {
    #[error("cannot be read ({0})")]
    Read(#[from] io::Error),
    #[error("is larger than {NAME_FILE_MAX} bytes")]
    TooLarge,
    #[error("is empty")]
    Empty,
    #[error("is no text")]
    NoText,
    #[error("has no use ({0})")]
    Servers(NetError),
    #[error("ends in the middle of a line")]
    Cut,
    #[error("has no line that begins with an address")]
    NoAddress,
}

/// The text of a file that may be read.
fn text_of(path: &Path) -> Result<String, SettingsError> {
    let mut bytes = Vec::new();
    let file = files::open(path)?;
    file.take(NAME_FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > NAME_FILE_MAX {
        return Err(SettingsError::TooLarge);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(SettingsError::Empty);
    }
    if bytes.contains(&0) {
        return Err(SettingsError::NoText);
    }
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn servers_of(text: &str) -> Result<(ResolverConfig, ResolverOpts), SettingsError> {
    let (config, mut options) = parse_resolv_conf(text).map_err(SettingsError::Servers)?;
    // The hosts file is looked at here; each name is asked for as a whole.
    options.use_hosts_file = ResolveHosts::Never;
    // That a name does not exist is kept by the cores alone, and for no longer than they say.
    options.negative_max_ttl = Some(std::time::Duration::ZERO);
    options.positive_max_ttl = Some(NAME_TTL_MAX);
    options.max_active_requests = 2 * NAME_QUERIES_RUNNING;
    Ok((config, options))
}

/// Lines that begin with no address are passed over, as the C library does, but for a file that has
/// no others, and for one that ends in the middle of one.
fn hosts_of(text: &str) -> Result<Hosts, SettingsError> {
    let content = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let begins_well = |line: &str| {
        let address = line.split_whitespace().next().unwrap_or_default();
        // An address may have a zone.
        let address = address.split('%').next().unwrap_or_default();
        address.parse::<IpAddr>().is_ok()
    };
    let lines = text.trim_start_matches('\u{feff}').lines();
    let lines: Vec<String> = lines.map(content).filter(|line| !line.is_empty()).collect();
    let is_cut = !text.ends_with('\n')
        && lines.last().is_some_and(|last| {
            content(text.lines().last().unwrap_or_default()) == *last
                && (!begins_well(last) || last.split_whitespace().count() < 2)
        });
    if is_cut {
        return Err(SettingsError::Cut);
    }
    if !lines.is_empty() && !lines.iter().any(|line| begins_well(line)) {
        return Err(SettingsError::NoAddress);
    }
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(text.as_bytes())?;
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::{Name, RecordType};

    struct Scratch {
        folder: tempfile::TempDir,
        system: System,
    }

    impl Scratch {
        fn new(servers: &str, hosts: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            std::fs::write(at("resolv.conf"), servers).unwrap();
            std::fs::write(at("hosts"), hosts).unwrap();
            let system = System::read(&at("resolv.conf"), &at("hosts"));
            Self { folder, system }
        }

        fn put(&self, name: &str, text: impl AsRef<[u8]>) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn look_twice(&self) {
            self.system.look(false);
            self.system.look(false);
        }

        fn server(&self) -> Option<String> {
            let servers = self.system.settings().servers?;
            Some(servers.0.name_servers().first()?.ip.to_string())
        }

        fn knows(&self, name: &str) -> bool {
            let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
            let hosts = self.system.settings().hosts;
            hosts.lookup_static_host(&query).is_some()
        }
    }

    const SERVERS: &str = "nameserver 127.0.0.53\n";
    const HOSTS: &str = "127.0.0.1 localhost\n";

    #[test]
    fn a_change_is_taken_when_it_is_quiet_or_asked_for() {
        let scratch = Scratch::new(SERVERS, HOSTS);
        assert_eq!(scratch.system.generation(), 1);
        scratch.put("hosts", "127.0.0.1 localhost other\n");
        scratch.system.look(false);
        assert!(!scratch.knows("other."), "it may still be written");
        scratch.system.look(false);
        assert!(scratch.knows("other.") && scratch.system.generation() == 2);
        scratch.put("resolv.conf", "nameserver 127.0.0.54\n");
        scratch.system.look(true);
        assert_eq!(scratch.server().as_deref(), Some("127.0.0.54"));
        assert_eq!(scratch.system.generation(), 3);
        // The same again, and by another file of that name.
        scratch.system.look(true);
        scratch.put("new", "127.0.0.1 localhost other\n");
        let at = |name: &str| scratch.folder.path().join(name);
        std::fs::rename(at("new"), at("hosts")).unwrap();
        scratch.look_twice();
        assert_eq!(scratch.system.generation(), 3, "nothing has changed");
        scratch.put("new", "127.0.0.1 third\n");
        std::fs::rename(at("new"), at("hosts")).unwrap();
        scratch.look_twice();
        assert!(scratch.knows("third.") && !scratch.knows("other."));
    }

    #[test]
    fn what_cannot_be_taken_leaves_what_was_there() {
        let whole = "127.0.0.1 localhost\n127.0.0.1 kept.test\n";
        let scratch = Scratch::new(SERVERS, whole);
        let held = |what: &str| {
            for now in [false, false, true] {
                scratch.system.look(now);
                let server = scratch.server();
                assert_eq!(server.as_deref(), Some("127.0.0.53"), "{what}");
                assert!(scratch.knows("kept.test."), "{what}");
                assert_eq!(scratch.system.generation(), 1, "{what}");
            }
            assert!(scratch.system.is_refused(), "{what}");
        };
        for servers in [
            "",
            "\n",
            "# none\n",
            "nameserver\n",
            "nameserver 127.0.0.",
            "\0\0\0",
            "garbage",
        ] {
            scratch.put("resolv.conf", servers);
            held(servers);
        }
        scratch.put("resolv.conf", SERVERS);
        scratch.look_twice();
        assert!(!scratch.system.is_refused(), "it is what was there");
        for hosts in [
            "",
            " \n",
            "127.0.0",
            "127.0.0.1 localhost\n127.",
            "127.0.0.1 localhost\n127.0.0.1",
            "\0",
            "garbage\n",
        ] {
            scratch.put("hosts", hosts);
            held(hosts);
        }
        let at = |name: &str| scratch.folder.path().join(name);
        for name in ["resolv.conf", "hosts"] {
            std::fs::remove_file(at(name)).unwrap();
            held("missing");
            std::fs::create_dir(at(name)).unwrap();
            held("a folder");
            std::fs::remove_dir(at(name)).unwrap();
        }
        scratch.put("hosts", "127.0.0.1 back");
        scratch.put("resolv.conf", "nameserver 127.0.0.54");
        scratch.look_twice();
        assert!(scratch.knows("back.") && !scratch.knows("kept.test."));
        assert_eq!(scratch.server().as_deref(), Some("127.0.0.54"));
        assert!(!scratch.system.is_refused());
    }

    /// Cut at every byte: never a state that is worse than the one before or the whole one.
    #[test]
    fn a_hosts_file_that_is_cut_anywhere_gives_whole_lines_or_nothing() {
        let whole = "# names\n127.0.0.1 localhost\n10.0.0.1 one.test\n";
        for end in 0..=whole.len() {
            if let Ok(hosts) = hosts_of(&whole[..end]) {
                let name = Name::from_ascii("localhost.").unwrap();
                let found = hosts.lookup_static_host(&Query::query(name, RecordType::A));
                // The library takes a name that is cut for another name, which nobody asks for.
                assert_eq!(
                    found.is_some(),
                    end >= "# names\n127.0.0.1 localhost".len(),
                    "{end}"
                );
            }
        }
    }

    #[test]
    fn a_start_without_name_servers_takes_them_when_they_come() {
        let scratch = Scratch::new("", HOSTS);
        assert!(scratch.server().is_none() && scratch.knows("localhost."));
        scratch.put("resolv.conf", SERVERS);
        scratch.look_twice();
        assert_eq!(scratch.server().as_deref(), Some("127.0.0.53"));
    }
}
