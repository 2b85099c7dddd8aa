//! The life of CRLs: files that change are read again, URLs are asked on a schedule.
//!
//! Reading and checking a list takes up to seconds, so it is done on threads that block; the
//! control core only waits for sockets. What a list means, and whether it is taken, is decided in
//! [`Node`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::fetch::{Bounds, Fetched, Fetcher, Validators};
use crate::backend::ResolverHandle;
use crate::config::CrlFetch;
use crate::engine::Node;
use crate::files::{self, in_background};
use crate::limits::{
    CRL_FETCHES, CRL_POLL, CRL_RETRY, CRL_RETRY_MAX, CRL_UPDATE_MAX, CRL_UPDATE_MIN,
};

/// Reads the CRL files again that have changed, and notes lists that run out, for ever.
pub async fn watch_crl_files(node: Arc<Node>) {
    files::watch(CRL_POLL, move || {
        node.read_changed_crl_files();
        node.note_ended_crls();
    })
    .await;
}

/// Fetches the CRLs of URLs, for ever.
pub async fn fetch_crls(node: Arc<Node>, resolver: ResolverHandle) {
    let fetcher = Fetcher {
        resolver,
        bounds: Bounds::default(),
    };
    let mut schedule = Schedule::default();
    let mut running = JoinSet::new();
    loop {
        let asked = node.clone();
        // Behind a lock that may be held while an index is made, and may make one itself, of a list that was kept.
        let Ok((rules, urls, sooner)) = in_background(move || wanted(&asked)).await else {
            return;
        };
        schedule.keep(urls, Instant::now());
        schedule.hasten(&sooner, Instant::now());
        let rules = Arc::new(rules);
        while running.len() < CRL_FETCHES
            && let Some((url, known)) = schedule.next_due(Instant::now())
        {
            let (fetcher, node, rules) = (fetcher.clone(), node.clone(), rules.clone());
            running.spawn(async move {
                let outcome = turn(&fetcher, &node, &url, &rules, &known).await;
                (url, outcome)
            });
        }
        tokio::select! {
            () = sleep(CRL_POLL) => {}
            Some(done) = running.join_next(), if !running.is_empty() => {
                if let Ok((url, outcome)) = done {
                    let expires = expiry(&node, &url);
                    schedule.done(&url, outcome, expires, Instant::now());
                }
            }
        }
    }
}

/// The active rules, the URLs to fetch under them, and those that are to be asked sooner than
/// usual.
fn wanted(node: &Node) -> (CrlFetch, Vec<String>, Vec<(String, Duration)>) {
    let (rules, urls) = node.crls_to_fetch();
    let sooner = urls.iter();
    let sooner = sooner.filter_map(|url| Some((url.clone(), node.crl_due(url)?)));
    let sooner = sooner.collect();
    (rules, urls, sooner)
}

/// Asks once. `Some`: the server gave an answer that is right, and what tells it from the next.
async fn turn(
    fetcher: &Fetcher,
    node: &Arc<Node>,
    url: &str,
    rules: &CrlFetch,
    known: &Validators,
) -> Option<Validators> {
    match fetcher.fetch(url, rules, known).await {
        Ok(Fetched::NotModified) => Some(known.clone()),
        Ok(Fetched::List(bytes, validators)) => {
            let (node, name) = (node.clone(), url.to_owned());
            let offered = in_background(move || node.offer_fetched_crl(&name, bytes));
            // A list that was not taken is asked for again, whole and soon.
            offered.await.ok()?.then_some(validators)
        }
        Err(error) => {
            let (node, name) = (node.clone(), url.to_owned());
            let told = spawn_blocking(move || node.crl_not_fetched(&name, error.to_string()));
            let _ = told.await;
            None
        }
    }
}

/// How long the list of a URL is still valid.
fn expiry(node: &Node, url: &str) -> Option<Duration> {
    let crls = node.crls();
    let next = crls
        .iter()
        .filter(|crl| crl.source == url)
        .filter_map(|crl| crl.next_update)
        .min()?;
    let next = SystemTime::UNIX_EPOCH + Duration::from_secs(next);
    next.duration_since(SystemTime::now()).ok()
}

/// When each URL is asked next.
#[derive(Default)]
struct Schedule {
    urls: HashMap<String, FetchSchedule>,
    random: RandomState,
    drawn: u64,
}

struct FetchSchedule {
    due: Instant,
    running: bool,
    failures: u32,
    known: Validators,
}

impl Schedule {
    /// Forgets what is not wanted any more; new URLs are due at once.
    fn keep(&mut self, urls: Vec<String>, now: Instant) {
        self.urls.retain(|url, _| urls.contains(url));
        for url in urls {
            self.urls.entry(url).or_insert_with(|| FetchSchedule {
                due: now,
                running: false,
                failures: 0,
                known: Validators::default(),
            });
        }
    }

    /// Brings forward what is to be asked for sooner, and asks for it whole.
    fn hasten(&mut self, sooner: &[(String, Duration)], now: Instant) {
        for (url, wait) in sooner {
            if let Some(turn) = self.urls.get_mut(url)
                && turn.due > now + *wait
            {
                turn.due = now + *wait;
                turn.known = Validators::default();
            }
        }
    }

    fn next_due(&mut self, now: Instant) -> Option<(String, Validators)> {
        let ready = self.urls.iter_mut();
        let (url, turn) = ready
            .filter(|(_, turn)| !turn.running && turn.due <= now)
            .min_by_key(|(_, turn)| turn.due)?;
        turn.running = true;
        Some((url.clone(), turn.known.clone()))
    }

    /// Sets the next turn: half way to the end of the list, or soon after a failure; never later
    /// than the end, from which on another list may be taken. While none is valid devices wait for
    /// one, so that it is asked for often.
    fn done(
        &mut self,
        url: &str,
        outcome: Option<Validators>,
        expires: Option<Duration>,
        now: Instant,
    ) {
        self.drawn += 1;
        // Nodes that start together must not ask together: between three quarters of the time and the whole.
        let draw = self.random.hash_one(self.drawn) % 256;
        let jitter = |time: Duration| time * 3 / 4 + time / 4 * (draw as u32) / 256;
        let Some(turn) = self.urls.get_mut(url) else {
            return;
        };
        turn.running = false;
        let is_right = outcome.is_some();
        if let Some(known) = outcome {
            turn.known = known;
        }
        let wait = match expires.filter(|left| !left.is_zero()) {
            Some(left) if is_right => {
                turn.failures = 0;
                jitter((left / 2).clamp(CRL_UPDATE_MIN, CRL_UPDATE_MAX)).min(left + CRL_POLL)
            }
            Some(left) => jitter(turn.back_off(CRL_RETRY_MAX)).min(left + CRL_POLL),
            None => jitter(turn.back_off(CRL_UPDATE_MIN)),
        };
        turn.due = now + wait;
    }
}

impl FetchSchedule {
    /// How long to wait after one more failure.
    fn back_off(&mut self, longest: Duration) -> Duration {
        let wait = CRL_RETRY * (1 << self.failures.min(8));
        self.failures += 1;
        wait.min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_asked_at_once_then_half_way_to_the_end_and_soon_after_a_failure() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        schedule.keep(vec!["a".into()], start);
        assert_eq!(schedule.next_due(start).unwrap().0, "a");
        assert!(schedule.next_due(start).is_none(), "it is being asked");

        let known = Validators::default();
        let life = Duration::from_secs(1000);
        schedule.done("a", Some(known.clone()), Some(life), start);
        let due = schedule.urls["a"].due - start;
        assert!(due >= life * 3 / 8 && due <= life / 2, "{due:?}");
        assert!(schedule.next_due(start + life / 4).is_none());
        assert!(schedule.next_due(start + life / 2).is_some());

        schedule.done("a", Some(known.clone()), None, start);
        assert!(schedule.urls["a"].due - start <= CRL_RETRY, "expired");
        for _ in 0..20 {
            schedule.done("a", None, None, start);
        }
        let due = schedule.urls["a"].due - start;
        assert!(
            due <= CRL_UPDATE_MIN && due >= CRL_UPDATE_MIN * 3 / 4,
            "nothing is valid: {due:?}"
        );
        // No wait spans the end, neither the usual one nor that after failures.
        let soon = Duration::from_secs(5);
        for outcome in [Some(known.clone()), None, None, None, None] {
            schedule.done("a", outcome, Some(soon), start);
            assert!(schedule.urls["a"].due - start <= soon + CRL_POLL);
        }
        let far = Duration::from_secs(365 * 86_400);
        schedule.done("a", Some(known), Some(far), start);
        assert!(schedule.urls["a"].due - start <= CRL_UPDATE_MAX);

        let mut last = Duration::ZERO;
        for _ in 0..20 {
            schedule.done("a", None, Some(far), start);
            last = schedule.urls["a"].due - start;
            assert!(last >= CRL_RETRY * 3 / 4 && last <= CRL_RETRY_MAX);
        }
        assert!(
            last >= CRL_RETRY_MAX * 3 / 4,
            "it does not hammer: {last:?}"
        );

        schedule.hasten(&[("a".into(), CRL_RETRY)], start);
        assert_eq!(schedule.urls["a"].due, start + CRL_RETRY);
        assert!(schedule.next_due(start).is_none());
        schedule.hasten(&[("a".into(), Duration::ZERO)], start);
        assert_eq!(schedule.next_due(start).unwrap().0, "a");

        schedule.keep(vec!["b".into()], start);
        assert_eq!(schedule.next_due(start).unwrap().0, "b");
        assert!(!schedule.urls.contains_key("a"));
    }
}
