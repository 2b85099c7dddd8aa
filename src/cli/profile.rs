//! `adit profile`: profiles in the store of a node.
//!
//! A profile is checked before anything is kept, with all that it names, as a start would. When a change is of the profile
//! that the node is assigned, the running node is asked to take it; what the node refuses is taken back.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::admin::{AdminCommand, AdminError};
use super::profile_text::{difference, table, title, versions};
use super::reload::reload;
use crate::certs::{self, CertError};
use crate::config::{self, Config, ConfigError, ProfileText};
use crate::control::client::ClientError;
use crate::engine::{LoadError, Loaded};
use crate::profiles::{
    Change, Changed, NewVersion, ProfileStore, StoreError, StoredProfile, rollback_note, store_of,
    this_user,
};

/// Keeps profiles in the store of a node, and assigns one to it.
#[derive(Debug, clap::Args)]
pub struct ProfileCommand {
    /// The node's config file: it names the state folder with the store, and relative paths in profiles start at its folder.
    #[arg(long, global = true, default_value = "adit.toml")]
    config: PathBuf,
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

/// What goes with a new version.
#[derive(Debug, clap::Args)]
struct With {
    /// What the change is for, in a line.
    #[arg(long)]
    note: Option<String>,
    /// Only if this is the newest version; 0 for a profile that is not there yet.
    #[arg(long)]
    expect: Option<u64>,
}

/// Why a command about profiles fails.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The node's config, or the profile.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// What the profile names.
    #[error("{0}")]
    Files(#[from] LoadError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The running node does not take it.
    #[error("the running node refuses it, so nothing was changed: {0}")]
    Refused(String),
    /// The running node does not take it, and it stays stored.
    #[error("the running node refuses it, and it could not be taken back ({1}): {0}")]
    Kept(String, StoreError),
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
            Self::Config(_) | Self::Files(_) | Self::Refused(_) | Self::Oldest(..) => 2,
            Self::Store(Bad(_) | NoProfile(_) | NoVersion(..)) => 2,
            Self::Store(_) | Self::Kept(..) | Self::Output(_) => 1,
        }
    }
}

/// What the running node says to a change.
enum ChangeResult {
    /// It has taken it.
    Taken,
    /// It will not.
    Refused(String),
    /// It was not asked, or did not answer; why, and what to do.
    Unknown(String),
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
                _ => json!([]),
            };
            self.print_json(&json!({"error": error.to_string(), "problems": problems}))?;
        }
        result
    }

    fn perform(&self) -> Result<(), ProfileError> {
        let node = config::load_node(&self.config)?;
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
                self.put(store, (&name, &text), with.note.as_deref(), with.expect)
            }
            What::Rollback { name, to, with } => self.roll_back(&node, store, name, *to, with),
            What::Assign { name } => {
                let profile = store.read(name, None)?;
                let shown = format!("profile {name} version {}", profile.version);
                self.check(&node, &profile.text, Path::new(&shown), Some(name))?;
                self.assign(store, Some(name))
            }
            What::Unassign => self.assign(store, None),
            What::Delete { name, expect } => {
                let expect = *expect;
                store.change(&Change::Delete { name, expect }, &mut |_| true)?;
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

    /// Checks a profile and what it names, as a start would, and says what may be wrong. The profile's name.
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
        let config = config::with_profile(node, &self.config, &profile)?;
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
        self.put(store, (name, &old.text), Some(&note), expect)
    }

    /// Stores a text that is right.
    fn put(
        &self,
        store: &dyn ProfileStore,
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
        let changed = store.change(&Change::Put(new), &mut |_| true)?;
        let version = changed.version;
        let undo = changed.stored.then_some(Change::Withdraw { name, version });
        let told = self.tell(store, &changed, undo)?;
        let said = json!({
            "name": name,
            "version": version,
            "replaced": changed.replaced,
            "stored": changed.stored,
            "assigned": changed.assigned,
            "in_force": told,
        });
        self.print(&said, || match changed.stored {
            true => format!("{name} version {version}\n"),
            false => format!("{name} version {version} has this text already\n"),
        })
    }

    fn assign(&self, store: &dyn ProfileStore, name: Option<&str>) -> Result<(), ProfileError> {
        let changed = store.change(&Change::Assign(name), &mut |_| true)?;
        let undo = Change::Assign(changed.assigned_before.as_deref());
        let told = self.tell(store, &changed, changed.stored.then_some(undo))?;
        let said = json!({"assigned": name, "version": changed.version, "in_force": told});
        self.print(&said, || match name {
            Some(name) => format!("{name} version {} is assigned\n", changed.version),
            None => "no profile is assigned: the node is unconfigured\n".to_owned(),
        })
    }

    /// Lets the running node take a change of the profile that it is assigned; where it refuses, `undo` is done. Whether
    /// it has taken it; why not, on standard error.
    fn tell(
        &self,
        store: &dyn ProfileStore,
        changed: &Changed,
        undo: Option<Change<'_>>,
    ) -> Result<bool, ProfileError> {
        if !changed.assigned {
            return Ok(false);
        }
        if config::has_profile(&self.config)? {
            eprintln!(
                "adit: {} has a [profile] of its own, which counts; take it out to let the node run on the store",
                self.config.display()
            );
            return Ok(false);
        }
        match ask_to_reload(&self.config) {
            ChangeResult::Taken => Ok(true),
            ChangeResult::Unknown(why) => {
                eprintln!("adit: {why}");
                Ok(false)
            }
            ChangeResult::Refused(why) => {
                let undone = undo.map(|undo| store.change(&undo, &mut |_| true));
                match undone.transpose() {
                    Ok(_) => Err(ProfileError::Refused(why)),
                    // Somebody else has changed it since.
                    Err(error) => Err(ProfileError::Kept(why, error)),
                }
            }
        }
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

/// Asks the node of this config file to read everything again.
fn ask_to_reload(config: &Path) -> ChangeResult {
    match reload(&AdminCommand::of(config)) {
        Ok(_) => ChangeResult::Taken,
        Err(AdminError::Change(why)) => ChangeResult::Refused(why),
        Err(error @ AdminError::Client(_, ClientError::Connect(_))) => ChangeResult::Unknown(
            format!("{error} It is taken at the next start, or at a reload (SIGHUP)"),
        ),
        Err(error) => ChangeResult::Unknown(format!(
            "the running node has not taken it yet: {error}; send the node SIGHUP"
        )),
    }
}
