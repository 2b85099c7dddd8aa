//! `adit profile`: profiles in the store of a node.
//!
//! A profile is checked before anything is kept, with all that it names, as a start would. Where a
//! node runs, it makes the change (see `change`); else the change is for the next start.

use std::path::{Path, PathBuf};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{AdminCommand, encoded};
use super::admin_error::AdminError;
use super::change::{self, ChangeError, Maker, Request};
use super::profile_text::{difference, table, title, versions};
use crate::certs::{self, CertError};
use crate::config::{self, Config, ConfigError, ProfileText};
use crate::engine::{LoadError, Loaded};
use crate::profiles::{
    Change, Changed, NewVersion, ProfileStore, StoreError, StoredProfile, rollback_note, store_of,
    this_user,
};

/// Keeps profiles in the store of a node, and assigns one to it.
#[derive(Debug, clap::Args)]
pub struct ProfileCommand {
    // The config file names the state folder with the store, and relative paths in profiles start at its folder.
    #[command(flatten)]
    admin: AdminCommand,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the profiles, or the versions of one.
    List {
        /// The profile.
        name: Option<String>,
    },
    /// Print a profile's text.
    Show {
        /// The profile.
        name: String,
        /// The version; else the newest.
        #[arg(long)]
        version: Option<u64>,
    },
    /// Check a profile and the files that it names, and store nothing.
    Validate {
        /// The file with the profile.
        file: PathBuf,
    },
    /// Show what is different between two versions, or between a version and a file.
    Diff {
        /// The profile.
        name: String,
        /// The version to start from; else the one before --to, or the newest where that is a file.
        #[arg(long)]
        from: Option<u64>,
        /// The version or the file to compare with; else the newest version.
        #[arg(long)]
        to: Option<String>,
    },
    /// Check a profile and store it as a new version of the profile whose name it has.
    Apply {
        /// The file with the profile.
        file: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Let the node run on a profile.
    Assign {
        /// The profile.
        name: String,
    },
    /// Let the node run on no profile: it closes its listeners, and its tunnels.
    Unassign,
    /// Make an old text the newest version.
    Rollback {
        /// The profile.
        name: String,
        /// The version with the text; else the one before the newest.
        #[arg(long)]
        to: Option<u64>,
        #[command(flatten)]
        with: With,
    },
    /// Delete a profile with all its versions.
    Delete {
        /// The profile.
        name: String,
        /// Only if this is the newest version.
        #[arg(long)]
        expect: Option<u64>,
    },
}

/// Details of a new version.
#[derive(Debug, clap::Args)]
struct With {
    /// Note about the change, in one line.
    #[arg(long)]
    note: Option<String>,
    /// Only if this is the newest version; 0 for a profile that does not exist yet.
    #[arg(long)]
    expect: Option<u64>,
}

/// Why a command about profiles fails.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The node's config, or the profile.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The files that the profile names.
    #[error("{0}")]
    Files(#[from] LoadError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Neither a version nor a file.
    #[error("{0} of profile {1} is its oldest version; name another with --from or --to")]
    Oldest(u64, String),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] CertError),
}

impl ProfileError {
    /// 2 where the command line, the config or the profile is wrong, else 1.
    pub(super) fn exit_code(&self) -> u8 {
        use StoreError::{Bad, NoProfile, NoVersion};
        match self {
            Self::Config(_) | Self::Files(_) | Self::Oldest(..) => 2,
            Self::Store(Bad(_) | NoProfile(_) | NoVersion(..)) => 2,
            // There is no such profile.
            Self::Change(ChangeError::Admin(AdminError::Refused(.., StatusCode::NOT_FOUND))) => 2,
            Self::Change(error) => error.exit_code(),
            Self::Store(_) | Self::Output(_) => 1,
        }
    }
}

/// Result of a change. Of a profile that was deleted nothing is left to say.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Done {
    version: u64,
    replaced: Option<u64>,
    stored: bool,
    assigned: bool,
    in_force: bool,
}

impl ProfileCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn run(&self) -> Result<(), ProfileError> {
        let result = self.perform();
        if let (true, Err(error)) = (self.json, &result) {
            let problems = match error {
                ProfileError::Config(error) => json!(error.problems),
                ProfileError::Change(ChangeError::Refused(problems)) => json!(problems),
                _ => json!([]),
            };
            self.print_json(&json!({"error": error.to_string(), "problems": problems}))?;
        }
        result
    }

    fn perform(&self) -> Result<(), ProfileError> {
        let node = config::load_node(&self.admin.config)?;
        let store = store_of(&node.state_dir);
        let store = &*store;
        match &self.what {
            What::List { name: None } => {
                let overview = store.overview()?;
                self.print(&json!(overview), || match overview.profiles.is_empty() {
                    true => "no profile is stored; adit profile apply FILE stores one\n".to_owned(),
                    false => table(&overview),
                })
            }
            What::List { name: Some(name) } => {
                let profile = store.read(name, None)?;
                self.print(&json!(profile.history), || versions(&profile.history))
            }
            What::Show { name, version } => {
                let profile = store.read(name, *version)?;
                self.print(&json!(profile), || profile.text.clone())
            }
            What::Validate { file } => self.validate(&node, file),
            What::Diff { name, from, to } => self.diff(store, name, *from, to.as_deref()),
            What::Apply { file, with } => {
                let text = config::read_profile(file)?;
                let name = self.check(&node, &text, file, None)?;
                self.put(&node, (&name, &text), with.note.as_deref(), with.expect)
            }
            What::Rollback { name, to, with } => self.roll_back(&node, store, name, *to, with),
            What::Assign { name } => {
                let profile = store.read(name, None)?;
                let shown = format!("profile {name} version {}", profile.version);
                self.check(&node, &profile.text, Path::new(&shown), Some(name))?;
                self.assign(&node, Some(name))
            }
            What::Unassign => self.assign(&node, None),
            What::Delete { name, expect } => {
                let expect = *expect;
                self.change(&node, &Change::Delete { name, expect })?;
                self.print(&json!({"name": name, "deleted": true}), || {
                    format!("profile {name} is deleted\n")
                })
            }
        }
    }

    fn validate(&self, node: &Config, file: &Path) -> Result<(), ProfileError> {
        let text = config::read_profile(file)?;
        let name = self.check(node, &text, file, None)?;
        self.print(&json!({"name": name, "valid": true}), || {
            format!("{} is right: profile {name}\n", file.display())
        })
    }

    /// Checks a profile and what it names, as a start would, and says what may be wrong. The
    /// profile's name.
    fn check(
        &self,
        node: &Config,
        text: &str,
        shown: &Path,
        name: Option<&str>,
    ) -> Result<String, ProfileError> {
        let profile = ProfileText {
            text,
            shown,
            name,
            version: None,
        };
        let config = config::with_profile(node, &self.admin.config, &profile)?;
        for (file, finding) in Loaded::check(&config)?.certificates {
            eprintln!("adit: {}: {finding}", file.display());
        }
        Ok(config.profile.name)
    }

    fn diff(
        &self,
        store: &dyn ProfileStore,
        name: &str,
        from: Option<u64>,
        to: Option<&str>,
    ) -> Result<(), ProfileError> {
        let newest = store.read(name, None)?;
        let version = |text: &str| text.parse::<u64>().ok();
        let (from, to) = match to {
            Some(file) if version(file).is_none() => {
                let text = config::read_profile(Path::new(file))?;
                let from = from.unwrap_or(newest.version);
                (store.read(name, Some(from))?, (file.to_owned(), text))
            }
            to => {
                let to = to.and_then(version);
                let to = store.read(name, Some(to.unwrap_or(newest.version)))?;
                let from = match from {
                    Some(from) => from,
                    None => before(&to)?,
                };
                (store.read(name, Some(from))?, (title(&to), to.text))
            }
        };
        let said = difference((&title(&from), &from.text), (&to.0, &to.1));
        self.print(
            &json!({"name": name, "from": from.version, "diff": said}),
            || said.clone(),
        )
    }

    fn roll_back(
        &self,
        node: &Config,
        store: &dyn ProfileStore,
        name: &str,
        to: Option<u64>,
        with: &With,
    ) -> Result<(), ProfileError> {
        let newest = store.read(name, None)?;
        let old = match to {
            Some(to) => to,
            None => before(&newest)?,
        };
        let old = store.read(name, Some(old))?;
        // What it names may have gone since.
        let shown = format!("profile {name} version {}", old.version);
        self.check(node, &old.text, Path::new(&shown), Some(name))?;
        let note = with.note.clone();
        let note = note.unwrap_or_else(|| rollback_note(old.version));
        let expect = with.expect.or(Some(newest.version));
        self.put(node, (name, &old.text), Some(&note), expect)
    }

    /// Stores a text that is right.
    fn put(
        &self,
        node: &Config,
        (name, text): (&str, &str),
        note: Option<&str>,
        expect: Option<u64>,
    ) -> Result<(), ProfileError> {
        let new = NewVersion {
            name,
            text,
            who: &this_user(),
            note: note.unwrap_or_default(),
            expect,
        };
        let done = self.change(node, &Change::Put(new))?;
        let version = done.version;
        let said = json!({
            "name": name,
            "version": version,
            "replaced": done.replaced,
            "stored": done.stored,
            "assigned": done.assigned,
            "in_force": done.in_force,
        });
        self.print(&said, || match done.stored {
            true => format!("{name} version {version}\n"),
            false => format!("{name} version {version} has this text already\n"),
        })
    }

    fn assign(&self, node: &Config, name: Option<&str>) -> Result<(), ProfileError> {
        let done = self.change(node, &Change::Assign(name))?;
        let said = json!({"assigned": name, "version": done.version, "in_force": done.in_force});
        self.print(&said, || match name {
            Some(name) => format!("{name} version {} is assigned\n", done.version),
            None => "no profile is assigned: the node is unconfigured\n".to_owned(),
        })
    }

    /// Makes a change of the store, or has the running node make it. Why it is not active then, on
    /// standard error.
    fn change(&self, node: &Config, change: &Change<'_>) -> Result<Done, ProfileError> {
        let store = store_of(&node.state_dir);
        let Some(request) = request(change, &*store)? else {
            return Ok(Done::default());
        };
        let target = self.admin.target().map_err(ChangeError::from)?;
        let maker = change::make(&target, &request)?;
        let (done, runs) = match maker {
            Maker::Node(answer) => (change::made(answer)?, true),
            Maker::Here(_lock) => (Done::from(store.change(change, &mut |_| true)?), false),
        };
        if done.assigned && config::has_profile(&self.admin.config)? {
            eprintln!(
                "adit: {} has its own [profile], which is used; remove it so that the node uses the store",
                self.admin.config.display()
            );
        } else if done.assigned && !runs {
            eprintln!("adit: no node runs with this state folder; the next start takes it");
        }
        Ok(done)
    }

    fn print(&self, said: &Value, text: impl FnOnce() -> String) -> Result<(), ProfileError> {
        match self.json {
            true => self.print_json(said),
            false => Ok(certs::print(text().as_bytes())?),
        }
    }

    fn print_json(&self, said: &Value) -> Result<(), ProfileError> {
        Ok(certs::print(format!("{said}\n").as_bytes())?)
    }
}

/// The version before this one.
fn before(profile: &StoredProfile) -> Result<u64, ProfileError> {
    let oldest = || ProfileError::Oldest(profile.version, profile.name.clone());
    profile.before().ok_or_else(oldest)
}

impl From<Changed> for Done {
    fn from(changed: Changed) -> Self {
        Self {
            version: changed.version,
            replaced: changed.replaced,
            stored: changed.stored,
            assigned: changed.assigned,
            in_force: false,
        }
    }
}

/// A change as a request to the running node; `None` where there is nothing to change.
fn request(change: &Change<'_>, store: &dyn ProfileStore) -> Result<Option<Request>, ProfileError> {
    let expected = |expect: Option<u64>| expect.map(|expect| format!("expect={expect}"));
    let path = |name: &str, more: &str| format!("/profiles/{}{more}", encoded(name));
    let (method, path, body) = match *change {
        Change::Put(new) => {
            let note = format!("?note={}", encoded(new.note));
            let query = [Some(note), expected(new.expect)];
            let query: Vec<String> = query.into_iter().flatten().collect();
            let text = new.text.as_bytes().to_vec();
            let body = Some(("application/toml", text));
            ("PUT", path(new.name, &query.join("&")), body)
        }
        Change::Assign(Some(name)) => ("POST", path(name, "/assign"), None),
        Change::Assign(None) => match store.overview()?.assigned {
            Some(name) => ("POST", path(&name, "/unassign"), None),
            None => return Ok(None),
        },
        Change::Delete { name, expect } => {
            let query = expected(expect).map_or(String::new(), |expect| format!("?{expect}"));
            ("DELETE", path(name, &query), None)
        }
    };
    Ok(Some(Request { method, path, body }))
}
