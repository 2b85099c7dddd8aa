use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::limits::SUCCESSION_DEVICES;
use crate::table::DeviceRegistry;

fn registry(devices: usize, state: DeviceState) -> DeviceRegistry {
    let mut all = DeviceCollector::default();
    for number in 0..devices {
        let name = format!("device-{number}");
        let user = (number % 2 == 0).then_some("ann");
        all.add(&name, DeviceEntry { state, user });
    }
    DeviceRegistry::default()
        .with(&all.finish().unwrap())
        .unwrap()
}

fn names(registry: &DeviceRegistry) -> Vec<String> {
    let all = registry.list("", "", usize::MAX);
    all.iter()
        .map(|(name, entry)| format!("{name} {entry:?}"))
        .collect()
}

/// A pair of processes: the new one's side, and what the old one was told.
fn pair() -> (
    Predecessor,
    mpsc::Receiver<Followed>,
    thread::JoinHandle<String>,
) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (questions, _) = UnixStream::pair().unwrap();
    let predecessor = Predecessor::new(ours, Some(questions), 1).unwrap();
    let (sender, told) = mpsc::channel();
    let old = thread::spawn(move || {
        let successor = Successor::await_service(theirs, Duration::from_secs(10)).unwrap();
        let take = move |followed| sender.send(followed).is_ok();
        follow(successor, take).unwrap()
    });
    (predecessor, told, old)
}

#[test]
fn all_devices_come_first_and_then_what_is_new() {
    let (predecessor, told, _old) = pair();
    // What changes before it serves is not lost.
    predecessor.devices_changed(registry(1, DeviceState::Managed));
    let first = registry(2 * SUCCESSION_DEVICES + 1, DeviceState::Managed);
    predecessor.devices_changed(first.clone());
    predecessor.is_succeeded(DeviceRegistry::default()).unwrap();
    let next = || told.recv_timeout(Duration::from_secs(10)).unwrap();
    let Followed::AllDevices(all) = next() else {
        panic!("all")
    };
    let mut here = DeviceRegistry::default().with(&all).unwrap();
    assert_eq!(names(&here), names(&first));
    assert!(matches!(next(), Followed::Reload));
    // One is blocked, the others go.
    let second = registry(1, DeviceState::Blocked);
    predecessor.devices_changed(second.clone());
    let Followed::Devices(changes) = next() else {
        panic!("changes")
    };
    here = here.with(&changes).unwrap();
    assert_eq!(names(&here), names(&second));
    predecessor.reopen();
    assert!(matches!(next(), Followed::Reopen));
    let info = predecessor.info().unwrap();
    assert_eq!((info.lost, info.refused), (None, false));
}

#[test]
fn what_is_told_while_the_other_is_slow_is_told_as_one() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (questions, _) = UnixStream::pair().unwrap();
    let predecessor = Predecessor::new(ours, Some(questions), 1).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        let successor = Successor::await_service(theirs, Duration::from_secs(10)).unwrap();
        follow(successor, move |followed| {
            let _ = gate.recv();
            sender.send(followed).is_ok()
        })
    });
    predecessor.is_succeeded(DeviceRegistry::default()).unwrap();
    for number in 0..1000 {
        // Nobody waits for the other process.
        let start = Instant::now();
        predecessor.devices_changed(registry(number % 7, DeviceState::Managed));
        predecessor.reload();
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    let last = registry(3, DeviceState::Blocked);
    predecessor.devices_changed(last.clone());
    let (mut here, mut count) = (DeviceRegistry::default(), 0);
    while names(&here) != names(&last) {
        go.send(()).unwrap();
        match told.recv_timeout(Duration::from_secs(10)).unwrap() {
            Followed::AllDevices(all) => here = DeviceRegistry::default().with(&all).unwrap(),
            Followed::Devices(changes) => here = here.with(&changes).unwrap(),
            Followed::Reload | Followed::Reopen => {}
        }
        count += 1;
        assert!(count < 20, "one change after the other");
    }
}

#[test]
fn the_old_process_says_why_it_does_not_follow_any_more() {
    let (predecessor, _told, old) = pair();
    predecessor.is_succeeded(DeviceRegistry::default()).unwrap();
    drop(predecessor);
    // The thread that speaks lives on; it ends with the link.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let hear = thread::spawn(move || {
        let successor = Successor::await_service(theirs, Duration::from_secs(10)).unwrap();
        follow(successor, |_| true).unwrap()
    });
    write(&mut ours, &Message::Serving).unwrap();
    ours.write_all(b"{\"teapot\":1}\n").unwrap();
    assert!(hear.join().unwrap().contains("not understood"));
    drop(old);
}

#[test]
fn one_that_does_not_come_to_serve_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let silent = Successor::await_service(theirs, Duration::from_millis(50));
    assert!(is_timeout(&silent.unwrap_err()));
    drop(ours);
    for said in ["", "\"ready\"", "\"beat\"\n", "nonsense\n"] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(said.as_bytes()).unwrap();
        drop(ours);
        let patience = Duration::from_secs(5);
        assert!(
            Successor::await_service(theirs, patience).is_err(),
            "{said:?}"
        );
    }
}

#[test]
fn a_message_may_come_in_any_pieces() {
    let mut line = serde_json::to_vec(&Message::Apply { whole: true }).unwrap();
    line.push(b'\n');
    for cut in 0..=line.len() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(theirs);
        link.set_timeouts(Some(Duration::from_millis(1)), None)
            .unwrap();
        ours.write_all(&line[..cut]).unwrap();
        let first = link.read::<Message>();
        match cut == line.len() {
            true => assert!(matches!(
                first.unwrap(),
                Some(Message::Apply { whole: true })
            )),
            false => {
                assert!(is_timeout(&first.unwrap_err()), "{cut}");
                ours.write_all(&line[cut..]).unwrap();
                let second = link.read::<Message>().unwrap();
                assert!(
                    matches!(second, Some(Message::Apply { whole: true })),
                    "{cut}"
                );
            }
        }
    }
}

#[test]
fn a_descriptor_is_passed_on() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut one, other) = UnixStream::pair().unwrap();
    pass(&ours, other.as_fd()).unwrap();
    let mut given = UnixStream::from(receive(&theirs).unwrap());
    one.write_all(b"x").unwrap();
    let mut byte = [0];
    given.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    // Nobody takes any: it is an error at some time, and never a wait.
    assert!((0..100_000).any(|_| pass(&ours, other.as_fd()).is_err()));
}
