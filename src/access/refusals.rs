//! Which refusals have a line of their own in the audit log.
//!
//! A client can be refused as often as it likes, and each line is on a disk that all need. So many
//! refusals of a client have a line each; of what is beyond, a line now and then says how many they
//! were and why, so that none is lost in silence. A client is a device, or an address where no
//! device is known.
//!
//! A core counts for itself. Memory is bounded by [`REFUSED_CLIENTS`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::SourceNetwork;
use crate::limits::{REFUSALS_AUDITED, REFUSALS_TOLD, REFUSED_CLIENTS, STRANGERS_AUDITED};
use crate::observe::{AuditEvent, Subject};
use crate::reason::CloseReason;

/// Whose refusals are counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Device(Box<str>),
    Stranger(SourceNetwork),
    /// All others, where too many are known.
    Others,
}

/// Events that may be many: refusals, and the ends of sessions in which no tunnel was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// The end of a session whose requests were all refused; each of them was one before.
    pub session: bool,
    pub reason: CloseReason,
}

/// Lines that may be written: when the last ones are paid for.
#[derive(Clone, Copy)]
struct Lines(Instant);

impl Lines {
    fn may(self, (burst, pause): (u32, Duration), now: Instant) -> bool {
        self.0.saturating_duration_since(now) <= pause * burst.saturating_sub(1)
    }

    fn take(&mut self, (_, pause): (u32, Duration), now: Instant) {
        self.0 = self.0.max(now) + pause;
    }
}

struct Account {
    lines: Lines,
    /// Ends without a line since the last report, with their number.
    more: Vec<(Repeated, u64)>,
    told: Instant,
    /// Who it was last.
    subject: Arc<Subject>,
}

/// The refusals of a core.
pub(crate) struct Refusals {
    accounts: RefCell<HashMap<Client, Account>>,
    strangers: Cell<Lines>,
    /// Some had no line.
    untold: Cell<bool>,
}

impl Refusals {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self {
            accounts: RefCell::default(),
            strangers: Lines(now).into(),
            untold: false.into(),
        }
    }

    /// Returns whether this one has a line of its own. Otherwise it is counted.
    pub fn has_line(&self, subject: &Arc<Subject>, event: Repeated, now: Instant) -> bool {
        let mut accounts = self.accounts.borrow_mut();
        // Whoever only claims to be a device uses up no lines of it.
        let device = subject.verified_device();
        let mut client = match device {
            Some(device) => Client::Device(device.into()),
            None => Client::Stranger(SourceNetwork::of(subject.peer.ip())),
        };
        if accounts.len() >= REFUSED_CLIENTS && !accounts.contains_key(&client) {
            accounts.retain(|_, account| account.lines.0 > now || !account.more.is_empty());
            if accounts.len() >= REFUSED_CLIENTS {
                client = Client::Others;
            }
        }
        let account = accounts.entry(client).or_insert_with(|| Account {
            lines: Lines(now),
            more: Vec::new(),
            told: now,
            subject: subject.clone(),
        });
        let is_strange = device.is_none();
        let mut strangers = self.strangers.get();
        let may = account.lines.may(REFUSALS_AUDITED, now)
            && (!is_strange || strangers.may(STRANGERS_AUDITED, now));
        if may {
            account.lines.take(REFUSALS_AUDITED, now);
            if is_strange {
                strangers.take(STRANGERS_AUDITED, now);
                self.strangers.set(strangers);
            }
            return true;
        }
        account.subject = subject.clone();
        match account.more.iter_mut().find(|(known, _)| *known == event) {
            Some((_, count)) => *count += 1,
            None => account.more.push((event, 1)),
        }
        self.untold.set(true);
        false
    }

    /// Returns what is to be told now of those that had no line; `all`: nothing comes later.
    pub fn due(&self, all: bool, now: Instant) -> Vec<(Arc<Subject>, AuditEvent)> {
        let mut due = Vec::new();
        if !self.untold.get() {
            return due;
        }
        let mut untold = false;
        for account in self.accounts.borrow_mut().values_mut() {
            if account.more.is_empty() {
                continue;
            }
            if !all && now < account.told + REFUSALS_TOLD {
                untold = true;
                continue;
            }
            account.told = now;
            for (event, count) in std::mem::take(&mut account.more) {
                let Repeated { session, reason } = event;
                let event = AuditEvent::Repeated {
                    sessions: session,
                    count,
                    reason,
                };
                due.push((account.subject.clone(), event));
            }
        }
        self.untold.set(untold);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Repeated = Repeated {
        session: false,
        reason: CloseReason::NoRule,
    };

    fn subject(device: Option<&str>, number: u32) -> Arc<Subject> {
        let peer = (std::net::Ipv4Addr::from(0x0a00_0000 + number), 1);
        Arc::new(Subject {
            device: device.map(Into::into),
            verified: device.is_some(),
            ..Subject::of(peer.into())
        })
    }

    /// How many of `count` have a line each.
    fn lines(refusals: &Refusals, subject: &Arc<Subject>, count: u32, now: Instant) -> u32 {
        let each = (0..count).filter(|_| refusals.has_line(subject, REFUSED, now));
        each.count() as u32
    }

    fn told(refusals: &Refusals, now: Instant) -> Vec<u64> {
        let due = refusals.due(false, now).into_iter();
        due.map(|(_, event)| match event {
            AuditEvent::Repeated { count, .. } => count,
            event => panic!("{event:?}"),
        })
        .collect()
    }

    #[test]
    fn a_client_has_so_many_lines_and_the_rest_is_one() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        let (burst, pause) = REFUSALS_AUDITED;
        let [device, other] = ["device", "other"].map(|name| subject(Some(name), 1));
        assert_eq!(lines(&refusals, &device, burst + 500, start), burst);
        // From other addresses, too.
        assert_eq!(lines(&refusals, &subject(Some("device"), 2), 1, start), 0);
        assert_eq!(lines(&refusals, &other, 1, start), 1);
        assert_eq!(lines(&refusals, &subject(None, 1), 1, start), 1);
        assert_eq!(told(&refusals, start), [0; 0], "later");
        let now = start + REFUSALS_TOLD;
        assert_eq!(told(&refusals, now), [501]);
        assert_eq!(told(&refusals, now), [0; 0], "once");
        let earned = (REFUSALS_TOLD.as_nanos() / pause.as_nanos()) as u32;
        assert_eq!(lines(&refusals, &device, earned + 3, now), earned);
        let ended = Repeated {
            session: true,
            ..REFUSED
        };
        assert!(!refusals.has_line(&device, ended, now));
        assert_eq!(refusals.due(true, now).len(), 2, "by what they were");
    }

    #[test]
    fn who_claims_to_be_a_device_uses_up_none_of_its_lines() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        let claimed = Arc::new(Subject {
            verified: false,
            ..(*subject(Some("device"), 9)).clone()
        });
        let (burst, _) = REFUSALS_AUDITED;
        assert_eq!(lines(&refusals, &claimed, burst + 500, start), burst);
        assert_eq!(
            lines(&refusals, &subject(Some("device"), 1), burst, start),
            burst
        );
    }

    #[test]
    fn strangers_without_number_have_a_bound_and_are_forgotten() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        let crowd = STRANGERS_AUDITED.0 + 1000;
        let with_line = (0..crowd)
            .filter(|number| refusals.has_line(&subject(None, *number), REFUSED, start))
            .count();
        assert!(with_line <= STRANGERS_AUDITED.0 as usize, "{with_line}");
        assert!(with_line > REFUSED_CLIENTS, "{with_line}");
        assert_eq!(refusals.accounts.borrow().len(), REFUSED_CLIENTS + 1);
        assert_eq!(
            lines(&refusals, &subject(Some("device"), 1), 1, start),
            0,
            "of the others"
        );
        let now = start + REFUSALS_TOLD;
        let told: u64 = told(&refusals, now).iter().sum();
        assert_eq!(told, u64::from(crowd) + 1 - with_line as u64);
        assert!(refusals.has_line(&subject(None, u32::MAX >> 8), REFUSED, now));
        assert!(refusals.accounts.borrow().len() <= 2);
    }
}
