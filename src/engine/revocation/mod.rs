//! The CRLs of the node: which are in use, and how a new one comes into use while the node runs.
//!
//! A new list replaces the index alone: no core is asked, no configuration is loaded. A list that
//! cannot be used leaves the one before in place, and is told in [`Node::crls`].

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::node::{DrainError, Node};
use super::registry::ChangeError;
use crate::access::Causes;
use crate::certs;
use crate::config::{Config, CrlFetch, url_host};
use crate::files::Mark;
use crate::limits::CRL_SOURCES_MAX;
use crate::observe::CrlInfo;
use crate::table::{Published, RevocationIndex};
use crate::tls::{
    Admission, CheckedCrl, CrlErrors, CrlSet, CrlSource, Indexed, PointsSeen, Standing, check_crls,
    crl_urls, public_keys, read_crl_file,
};
pub use kept::{CRLS_FOLDER, forget_kept_crl};
use kept::{forget_kept, forgotten_file, keep, kept_file};

/// The CRLs of a configuration, and whose they may be.
#[derive(Clone, Default)]
pub(super) struct Crls {
    crl_set: CrlSet,
    group: Arc<[CertificateDer<'static>]>,
    /// Revocation status of the group certificates themselves.
    standing: Arc<Standing>,
    files: BTreeMap<PathBuf, Mark>,
    /// By source, why its last list was not taken.
    problems: BTreeMap<CrlSource, String>,
    /// By source, the moment from which a list that was not taken would be.
    again: BTreeMap<CrlSource, u64>,
    /// Sources that are to be asked at once.
    urgent: BTreeSet<CrlSource>,
    /// By source, what its lists lack to prove anything.
    doubts: BTreeMap<CrlSource, String>,
    /// By source and issuer, what is to be said of a list that has run out, or has not begun.
    ended: BTreeMap<(CrlSource, String), String>,
    /// Places that have been asked or named, with a list or without.
    wanted: Vec<CrlSource>,
    fetch: CrlFetch,
    folder: PathBuf,
}

/// State of the CRLs, shared by the whole node.
pub(super) struct Revocation {
    pub index: Arc<Published<RevocationIndex>>,
    /// Distribution points that client certificates name.
    pub points: Arc<PointsSeen>,
    /// Held by a reload from reading its files until they are in use, so that no list that comes
    /// meanwhile is lost.
    turn: Mutex<()>,
    /// Held while an index is made, which may take seconds.
    crls: Mutex<Crls>,
    /// For those who may not wait for that.
    told: Mutex<Arc<[CrlInfo]>>,
}

impl Crls {
    /// Reads what `config` names, and what was fetched before; `seen` are the URLs that client
    /// certificates have named. A list of `before` stays in use where its successor is bad or
    /// older, and what is known of a source that is still wanted stays known.
    ///
    /// # Errors
    /// [`CrlErrors`]: a file cannot be used, and nothing is there to stand in for it.
    pub fn load(
        config: &Config,
        group: &[CertificateDer<'static>],
        before: Option<&Self>,
        seen: Vec<String>,
    ) -> Result<Self, CrlErrors> {
        let auth = &config.profile.device_auth;
        let mut crls = Self {
            group: group.into(),
            standing: Arc::new(Standing::of(group)),
            fetch: auth.crl_fetch.clone(),
            folder: config.state_dir.join(CRLS_FOLDER),
            ..Self::default()
        };
        if !auth.crl_enabled {
            return Ok(crls);
        }
        if let Some(before) = before {
            // They are told once, and not with each reload.
            crls.doubts.clone_from(&before.doubts);
            crls.ended.clone_from(&before.ended);
        }
        let mut errors = Vec::new();
        for file in &auth.crl_files {
            crls.files.insert(file.clone(), Mark::of(file));
            let source = CrlSource::File(file.clone());
            let stands_in = crls.carry_over(before, &source);
            match read_crl_file(file, group, SystemTime::now()) {
                Ok(lists) => drop(crls.admit(source, lists)),
                Err(error) if stands_in => crls.problem(source, error.to_string()),
                Err(CrlErrors(found)) => errors.extend(found),
            }
        }
        let urls = urls_to_fetch(&crls.fetch, group, seen);
        for source in urls.into_iter().map(CrlSource::Url) {
            if !crls.carry_over(before, &source) {
                crls.take_kept(source);
            }
        }
        if errors.is_empty() {
            Ok(crls)
        } else {
            Err(CrlErrors(errors))
        }
    }

    /// The index of what is in use. Notes, and says in the log, which lists prove nothing.
    fn index(&mut self) -> RevocationIndex {
        let Indexed { index, disowned } = self.crl_set.index(&self.standing);
        let mut doubts = BTreeMap::new();
        for (source, issuer) in disowned {
            let doubt = format!(
                "the list of {issuer} proves nothing: the certificate of its signer is revoked by another list; \
                 remedy: take that certificate out of profile.device_auth.group_certificates, or publish a list by its \
                 successor"
            );
            doubts.insert(source, doubt);
        }
        for report in self.crl_set.reports() {
            if report.next_update.is_none() {
                let doubt = format!(
                    "the list of {} has no nextUpdate, so that nothing says until when it is valid: it revokes, and \
                     proves nothing; remedy: let the CA write one (RFC 5280, section 5.1.2.5)",
                    report.issuer
                );
                doubts.entry(report.source).or_insert(doubt);
            }
        }
        for (source, doubt) in &doubts {
            if self.doubts.get(source) != Some(doubt) {
                tracing::warn!(%source, "a CRL is partly used: {doubt}");
            }
        }
        self.doubts = doubts;
        self.note_ended(now());
        index
    }

    /// Notes which lists are not valid at a moment in unix seconds, and says in the log what is
    /// new. Returns whether something is.
    fn note_ended(&mut self, now: u64) -> bool {
        let ended = self.crl_set.reports().into_iter().filter_map(|report| {
            let text = report.unproving_text(now)?;
            Some(((report.source, report.issuer), text))
        });
        let ended: BTreeMap<_, _> = ended.collect();
        for (list, text) in &ended {
            if self.ended.get(list) != Some(text) {
                tracing::warn!(source = %list.0, "a CRL is not valid now: {text}");
            }
        }
        let is_new = ended != self.ended;
        self.ended = ended;
        is_new
    }

    /// Lists that are not valid now: where each is from, and what is to be said of it.
    pub fn ended(&self) -> Vec<(String, String)> {
        let reports = self.crl_set.reports().into_iter();
        let ended = reports
            .filter_map(|report| Some((report.source.to_string(), report.unproving_text(now())?)));
        ended.collect()
    }

    /// Returns whether a list that was not taken would be now, or the operator has asked for it.
    fn is_due(&mut self, source: &CrlSource, now: u64) -> bool {
        let due = self.again.get(source).is_some_and(|again| *again <= now);
        if due {
            self.again.remove(source);
        }
        self.urgent.remove(source) || due
    }

    fn want(&mut self, source: &CrlSource) {
        if !self.wanted.contains(source) {
            self.wanted.push(source.clone());
        }
    }

    /// Takes over what was known of a source before a reload. Whether its lists are in use still.
    fn carry_over(&mut self, before: Option<&Self>, source: &CrlSource) -> bool {
        self.want(source);
        let Some(before) = before else { return false };
        if let Some(problem) = before.problems.get(source) {
            self.problems.insert(source.clone(), problem.clone());
        }
        if let Some(again) = before.again.get(source) {
            self.again.insert(source.clone(), *again);
        }
        if before.urgent.contains(source) {
            self.urgent.insert(source.clone());
        }
        let trusted = public_keys(&self.group);
        self.crl_set.carry_over(&before.crl_set, source, &trusted)
    }

    /// The list that was fetched last before the node started, if it is there and good.
    fn take_kept(&mut self, source: CrlSource) {
        self.want(&source);
        let mut file = kept_file(&self.folder, &source);
        let forgotten = !file.exists();
        if forgotten {
            file = forgotten_file(&file);
            if !file.exists() {
                return;
            }
        }
        let read = certs::read_crls(&file).map_err(|error| CrlErrors(vec![error.into()]));
        match read.and_then(|lists| check_crls(&source, &lists, &self.group, SystemTime::now())) {
            Ok(lists) => {
                self.admit(source.clone(), lists);
                if forgotten {
                    self.crl_set.forget(&source);
                }
            }
            Err(error) => self.problem(source, error.to_string()),
        }
    }

    fn admit(&mut self, source: CrlSource, lists: Vec<CheckedCrl>) -> Admission {
        let admission = self.crl_set.admit(source.clone(), lists, now());
        self.again.remove(&source);
        match &admission {
            Admission::Refused { problem, until } => {
                if let Some(until) = until {
                    self.again.insert(source.clone(), *until);
                }
                self.problem(source, problem.clone());
            }
            Admission::Taken | Admission::Unchanged => drop(self.problems.remove(&source)),
        }
        admission
    }

    fn problem(&mut self, source: CrlSource, problem: String) {
        tracing::warn!(%source, "a CRL is not used: {problem}");
        self.problems.insert(source, problem);
    }

    fn told(&self) -> Arc<[CrlInfo]> {
        let reports = self.crl_set.reports();
        let info = |source: &CrlSource| {
            let problem = self.problems.get(source).or(self.doubts.get(source));
            CrlInfo {
                source: source.to_string(),
                refused: problem.is_some(),
                problem: problem.cloned(),
                ..CrlInfo::default()
            }
        };
        let missing = self
            .wanted
            .iter()
            .filter(|source| !reports.iter().any(|report| report.source == **source))
            .map(info);
        let held = reports.iter().map(|report| {
            let of_source = info(&report.source);
            let ended = self
                .ended
                .get(&(report.source.clone(), report.issuer.clone()));
            let problem = [ended, of_source.problem.as_ref()];
            let problem: Vec<&str> = problem.into_iter().flatten().map(String::as_str).collect();
            CrlInfo {
                issuer: report.issuer.clone(),
                number: report.number.as_ref().map(ToString::to_string),
                this_update: Some(report.this_update),
                next_update: report.next_update,
                entries: report.entries as u64,
                delta: report.delta,
                early: report.early,
                problem: (!problem.is_empty()).then(|| problem.join("; ")),
                ..of_source
            }
        });
        held.chain(missing).collect()
    }
}

/// In unix seconds.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn is_url(source: &CrlSource) -> bool {
    matches!(source, CrlSource::Url(_))
}

/// The URLs that are fetched by these rules: those of the configuration, and where the rules say so
/// those that the group certificates and `seen` name, a bounded number of them.
fn urls_to_fetch(
    fetch: &CrlFetch,
    group: &[CertificateDer<'static>],
    seen: Vec<String>,
) -> Vec<String> {
    let mut urls = fetch.urls.clone();
    if fetch.from_certificates {
        let group = group.iter();
        let named = group.flat_map(|certificate| crl_urls(certificate).map(str::to_owned));
        for url in named.chain(seen) {
            let allowed = url_host(&url).is_some_and(|host| fetch.hosts.contains(&host));
            if allowed && urls.len() < CRL_SOURCES_MAX && !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

impl Revocation {
    pub fn new(mut crls: Crls) -> Self {
        Self {
            index: Arc::new(Published::new(crls.index())),
            points: Arc::default(),
            told: Mutex::new(crls.told()),
            crls: Mutex::new(crls),
            turn: Mutex::default(),
        }
    }

    /// Waits until no reload is on the way, and keeps others from starting.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crls(&self) -> MutexGuard<'_, Crls> {
        self.crls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, crls: &Crls) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = crls.told();
    }

    /// Reads what a new configuration names, with what is in use to stand in for what is bad.
    pub fn load(
        &self,
        config: &Config,
        group: &[CertificateDer<'static>],
    ) -> Result<Crls, CrlErrors> {
        // A copy shares the tables, and holds nobody up.
        let before = self.crls().clone();
        Crls::load(config, group, Some(&before), self.points.all())
    }

    pub fn replace(&self, mut crls: Crls) {
        self.index.publish(crls.index());
        self.tell(&crls);
        *self.crls() = crls;
    }
}

impl Node {
    /// Called after each change of the revocation index, on the thread that changed it, which is no
    /// data core's: open tunnels whose certificates it revokes are closed.
    pub(super) fn revocation_changed(&self) {
        self.sweeper.changed(Causes::REVOCATION);
    }

    /// Lets lists that begin now prove from now on, and says of each that has run out since the
    /// last call that it has.
    pub fn note_ended_crls(&self) {
        let mut crls = self.revocation.crls();
        if crls.crl_set.begin(now()) {
            self.publish(&mut crls);
        } else if crls.note_ended(now()) {
            self.revocation.tell(&crls);
        }
    }

    /// Reads the CRL files that are not what they were. Blocks while it reads.
    pub fn read_changed_crl_files(&self) {
        let changed: Vec<PathBuf> = {
            let mut crls = self.revocation.crls();
            let mut files = std::mem::take(&mut crls.files);
            let changed = files.iter_mut().filter_map(|(file, known)| {
                let current = Mark::of(file);
                let due = crls.is_due(&CrlSource::File(file.clone()), now());
                let changed = *known != current || due;
                *known = current;
                changed.then(|| file.clone())
            });
            let changed = changed.collect();
            crls.files = files;
            changed
        };
        for file in changed {
            let group = self.revocation.crls().group.clone();
            let lists = read_crl_file(&file, &group, SystemTime::now());
            self.settle(CrlSource::File(file), lists);
        }
    }

    /// Takes what a server gave for `url`, if it is good, and keeps it for the next start. Blocks
    /// while it reads.
    ///
    /// Gives whether it is in use, now or before.
    pub fn offer_fetched_crl(&self, url: &str, bytes: Vec<u8>) -> bool {
        let source = CrlSource::Url(url.to_owned());
        let (group, folder) = {
            let crls = self.revocation.crls();
            (crls.group.clone(), crls.folder.clone())
        };
        let kept = kept_file(&folder, &source);
        let ders = match certs::crls_in(Path::new(url), bytes) {
            Ok(ders) => ders,
            Err(error) => {
                self.settle(source, Err(CrlErrors(vec![error.into()])));
                return false;
            }
        };
        let lists = check_crls(&source, &ders, &group, SystemTime::now());
        let admission = self.settle(source, lists);
        // Where another process has taken this one's place, the folder is that one's, and it fetches for itself.
        let is_kept = match admission {
            Some(Admission::Taken) => true,
            Some(Admission::Unchanged) => !kept.exists(),
            _ => false,
        };
        if is_kept
            && !self.follows()
            && let Err(error) = keep(&kept, &ders)
        {
            tracing::warn!(%error, url, "a fetched CRL is in use but cannot be kept for the next start");
        }
        matches!(admission, Some(Admission::Taken | Admission::Unchanged))
    }

    /// Begins to want the list of a URL that was found in a certificate: takes the one that was
    /// kept, if any.
    fn want_crl(&self, url: &str) {
        let source = CrlSource::Url(url.to_owned());
        let _turn = self.revocation.turn();
        let mut crls = self.revocation.crls();
        if !crls.wanted.contains(&source) {
            crls.take_kept(source);
            if crls.crl_set.has(&CrlSource::Url(url.to_owned())) {
                self.publish(&mut crls);
            } else {
                self.revocation.tell(&crls);
            }
        }
    }

    /// Tells that the list of a URL could not be fetched; the one before stays.
    pub fn crl_not_fetched(&self, url: &str, problem: String) {
        let _turn = self.revocation.turn();
        let mut crls = self.revocation.crls();
        let source = CrlSource::Url(url.to_owned());
        // The configuration may have changed while it was asked.
        if crls.wanted.contains(&source) {
            crls.problem(source, problem);
            self.revocation.tell(&crls);
        }
    }

    /// The rules by which CRLs are fetched, and the URLs, of which those that are new are wanted
    /// from now on. Reads what was kept of them: not for a thread that answers others.
    pub fn crls_to_fetch(&self) -> (CrlFetch, Vec<String>) {
        let (fetch, group) = {
            let crls = self.revocation.crls();
            (crls.fetch.clone(), crls.group.clone())
        };
        let urls = urls_to_fetch(&fetch, &group, self.revocation.points.all());
        if fetch.from_certificates {
            urls.iter().for_each(|url| self.want_crl(url));
        }
        (fetch, urls)
    }

    /// Lets whatever a source offers next take the place of the list in use, whatever its number
    /// and date, and has the source asked at once. The list in use stays until then. Whether there
    /// is one. May wait while an index is made.
    ///
    /// # Errors
    /// What is kept of it for the next start cannot be renamed, or another process takes this one's
    /// place; nothing has changed then.
    pub fn forget_crl(&self, source: &str) -> Result<bool, DrainError> {
        let _turn = self.revocation.turn();
        if self.follows() {
            return Err(DrainError::Succeeded(ChangeError::Succeeded));
        }
        let mut crls = self.revocation.crls();
        let known = crls.wanted.iter().find(|known| known.to_string() == source);
        let Some(source) = known.cloned() else {
            return Ok(false);
        };
        if is_url(&source) {
            forget_kept(&kept_file(&crls.folder, &source))?;
        }
        crls.crl_set.forget(&source);
        crls.urgent.insert(source);
        Ok(true)
    }

    /// How long from now until the list of a URL, which was not taken, is to be asked for again;
    /// `None`: as usual.
    pub fn crl_due(&self, url: &str) -> Option<Duration> {
        let mut crls = self.revocation.crls();
        let (source, now) = (CrlSource::Url(url.to_owned()), now());
        if crls.is_due(&source, now) {
            return Some(Duration::ZERO);
        }
        let again = crls.again.get(&source)?;
        Some(Duration::from_secs(again.saturating_sub(now)))
    }

    /// Returns what each CRL says of itself, and each that is missing.
    #[must_use]
    pub fn crls(&self) -> Arc<[CrlInfo]> {
        let told = self.revocation.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn settle(
        &self,
        source: CrlSource,
        lists: Result<Vec<CheckedCrl>, CrlErrors>,
    ) -> Option<Admission> {
        let _turn = self.revocation.turn();
        let mut crls = self.revocation.crls();
        // The configuration may have changed while the list was read.
        if !crls.wanted.contains(&source) {
            return None;
        }
        let trusted = public_keys(&crls.group);
        let admission = match lists {
            Ok(lists)
                if lists
                    .iter()
                    .all(|list| trusted.iter().any(|key| **key == *list.signer())) =>
            {
                Some(crls.admit(source, lists))
            }
            Ok(_) => None,
            Err(error) => {
                crls.problem(source, error.to_string());
                None
            }
        };
        if admission == Some(Admission::Taken) {
            self.publish(&mut crls);
        } else {
            self.revocation.tell(&crls);
        }
        admission
    }

    fn publish(&self, crls: &mut Crls) {
        self.revocation.index.publish(crls.index());
        self.revocation.tell(crls);
        self.revocation_changed();
    }
}
