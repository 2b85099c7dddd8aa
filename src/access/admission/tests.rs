//! Who is given up, who is not let in, and what is remembered.

use super::*;

const LIMITS: AdmissionLimits = AdmissionLimits {
    open: 4,
    most: 4,
    descriptors: 0,
    cores: 1,
    open_per_source: 2,
    failed_per_second: 10,
};

fn ended(places: &[Rc<Guest>]) -> Vec<Option<CloseReason>> {
    places.iter().map(|guest| guest.ending.get()).collect()
}

#[test]
fn the_oldest_that_waits_for_its_client_and_has_had_time_is_given_up() {
    let guests = Guests::default();
    let start = Instant::now();
    let places: Vec<Rc<Guest>> = (0..4).map(|_| guests.enter(start)).collect();
    assert!(guests.is_full(4, &LIMITS, start), "all have just come");
    guests.make_room(1, &LIMITS, start);
    assert_eq!(ended(&places), [None; 4]);

    let later = start + GUEST_GRACE;
    assert!(!guests.is_full(4, &LIMITS, later));
    guests.set_waiting(&places[0], false);
    for _ in 0..2 {
        guests.enter(later);
        guests.make_room(4, &LIMITS, later);
    }
    let given_up = Some(CloseReason::UnauthenticatedLimit);
    assert_eq!(ended(&places), [None, given_up, given_up, None]);
    assert_eq!(guests.open(), 4);
    guests.set_waiting(&places[3], false);
    assert!(guests.is_full(4, &LIMITS, later), "nobody's time is over");
    guests.set_waiting(&places[3], true);
    guests.give_files_back(&LIMITS, later);
    assert_eq!(ended(&places), [None, given_up, given_up, given_up]);
}

#[test]
fn those_that_hold_most_bytes_are_given_up_and_the_oldest_of_equals_first() {
    let guests = Guests::default();
    let now = Instant::now();
    let held = [10, 500, 0, 900, 500, 500];
    let places = held.map(|held| {
        let guest = guests.enter(now);
        guest.held.set(held);
        guest
    });
    guests.give_memory_back(0, 0, &LIMITS, now);
    assert_eq!(ended(&places), [None; 6]);
    guests.give_memory_back(901, 0, &LIMITS, now);
    let given_up = Some(CloseReason::UnauthenticatedLimit);
    let expected = [None, given_up, None, given_up, None, None];
    assert_eq!(ended(&places), expected);
    guests.set_waiting(&places[4], false);
    guests.give_memory_back(u64::MAX, 0, &LIMITS, now);
    let expected = [given_up, given_up, None, given_up, None, given_up];
    assert_eq!(
        ended(&places),
        expected,
        "neither who holds nothing nor who waits for the core"
    );
}

#[test]
fn the_share_grows_into_what_tunnels_leave() {
    let limits = AdmissionLimits {
        open: 100,
        most: 5000,
        descriptors: 20_000,
        cores: 2,
        ..LIMITS
    };
    let shares = [0, 1000, 9000, 10_000, usize::MAX].map(|open| limits.share(open));
    assert_eq!(shares, [5000, 4500, 500, 100, 100]);
}

#[test]
fn a_source_has_its_part_and_takes_it_from_itself() {
    let guests = Guests::default();
    let mut now = Instant::now();
    let mut come = |address: &str| {
        now += GUEST_GRACE;
        let guest = guests.enter(now);
        let come = guests.come_from(&guest, address.parse().unwrap(), &LIMITS, now);
        come.unwrap();
        guest
    };
    let other = come("2001:db8:0:2::1");
    let same = ["2001:db8:0:1::1", "2001:db8:0:1:2::", "2001:db8:0:1::3"].map(&mut come);
    let given_up = Some(CloseReason::SourceLimit);
    assert_eq!(ended(&same), [given_up, None, None]);
    let mapped = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"].map(&mut come);
    assert_eq!(ended(&mapped), [given_up, None, None]);
    assert_eq!(other.ending.get(), None);
    assert_eq!((guests.open(), guests.sources()), (5, 3));
    for guest in same.iter().chain(&mapped).chain([&other]) {
        guests.leave(guest);
    }
    assert_eq!(guests.open(), 0);
    assert_eq!(guests.sources(), 2, "those that must pay are remembered");
    assert!(guests.waiting.borrow().is_empty());
}

/// Silent connections of one source, in one moment and as many as are accepted.
#[test]
fn a_source_that_fills_the_share_keeps_no_other_out() {
    let guests = Guests::default();
    let start = Instant::now();
    let come = |address: &str, now| {
        let guest = guests.enter(now);
        guests.make_room(LIMITS.open, &LIMITS, now);
        let come = guests.come_from(&guest, address.parse().unwrap(), &LIMITS, now);
        come.map(|()| guest)
    };
    let other = come("192.0.2.2", start).unwrap();
    let mut crowd: Vec<Rc<Guest>> = Vec::new();
    for number in 0..100 {
        crowd.push(come("192.0.2.1", start).unwrap());
        assert!(!guests.is_full(LIMITS.open, &LIMITS, start), "{number}");
        assert!(guests.open() <= LIMITS.open, "{number}");
    }
    assert_eq!(crowd[96].ending.get(), Some(CloseReason::SourceLimit));
    let more = come("192.0.2.2", start).unwrap();
    assert_eq!(ended(&[other, more]), [None; 2]);
    assert_eq!(ended(&crowd[98..]), [None; 2], "it keeps its part");
    // What was given up is paid for.
    let refused = (0..100).find_map(|_| come("192.0.2.1", start + GUEST_GRACE).err());
    assert_eq!(refused, Some(CloseReason::SourceFailures));
    assert!(come("192.0.2.2", start + GUEST_GRACE).is_ok());
}

#[test]
fn a_source_that_is_alone_is_served_in_its_turn() {
    let guests = Guests::default();
    let start = Instant::now();
    for _ in 0..4 {
        let guest = guests.enter(start);
        let address = "192.0.2.1".parse().unwrap();
        guests.come_from(&guest, address, &LIMITS, start).unwrap();
    }
    assert!(guests.is_full(4, &LIMITS, start), "all have just come");
    assert!(!guests.is_full(4, &LIMITS, start + GUEST_GRACE));
}

#[test]
fn a_source_whose_handshakes_fail_waits_and_comes_again() {
    let guests = Guests::default();
    let start = Instant::now();
    let attempt = |address: &str, now| {
        let guest = guests.enter(now);
        let come = guests.come_from(&guest, address.parse().unwrap(), &LIMITS, now);
        guests.failed(&guest, &LIMITS, now);
        guests.leave(&guest);
        come
    };
    let burst = 10 * FAILED_HANDSHAKES_BURST.as_secs();
    for number in 0..=burst {
        assert_eq!(attempt("192.0.2.1", start), Ok(()), "{number}");
    }
    let refused = Err(CloseReason::SourceFailures);
    assert_eq!(attempt("192.0.2.1", start), refused);
    assert_eq!(attempt("192.0.2.2", start), Ok(()), "another one");
    let later = start + Duration::from_secs(1);
    for _ in 0..10 {
        assert_eq!(attempt("192.0.2.1", later), Ok(()));
    }
    assert_eq!(attempt("192.0.2.1", later), refused);
}

#[test]
fn sources_are_forgotten_before_they_are_too_many() {
    let guests = Guests::default();
    let now = Instant::now();
    let mut kept = Vec::new();
    for network in 0..3 * SOURCES_MAX as u128 {
        let guest = guests.enter(now);
        let address = IpAddr::V6((network << 64).into());
        guests.come_from(&guest, address, &LIMITS, now).unwrap();
        guests.failed(&guest, &LIMITS, now);
        if network < 10 {
            kept.push(guest);
        } else {
            guests.leave(&guest);
        }
        assert!(guests.sources() <= SOURCES_MAX);
    }
    kept.iter().for_each(|guest| guests.leave(guest));
    assert_eq!(guests.open(), 0);
}

/// New connections were kept until their source came again, and so were those above a share that
/// has shrunk.
#[test]
fn what_is_more_than_its_part_goes_when_it_has_had_time() {
    let guests = Guests::default();
    let start = Instant::now();
    let come = |address: &str| {
        let guest = guests.enter(start);
        let come = guests.come_from(&guest, address.parse().unwrap(), &LIMITS, start);
        come.map(|()| guest).unwrap()
    };
    let many = ["192.0.2.1"; 5].map(come);
    let other = come("192.0.2.2");
    guests.keep_to_shares(10, &LIMITS, start);
    assert_eq!(ended(&many), [None; 5], "they have just come");
    let later = start + GUEST_GRACE;
    guests.keep_to_shares(10, &LIMITS, later);
    let given_up = Some(CloseReason::SourceLimit);
    let expected = [given_up, given_up, given_up, None, None];
    assert_eq!(ended(&many), expected);
    guests.keep_to_shares(1, &LIMITS, later);
    assert_eq!(guests.open(), 1);
    assert_eq!(other.ending.get(), None, "the oldest first");
}

#[test]
fn bytes_of_those_that_are_given_up_are_as_good_as_free() {
    let guests = Guests::default();
    let now = Instant::now();
    let places = [700, 500].map(|held| {
        let guest = guests.enter(now);
        guest.held.set(held);
        guest
    });
    guests.give_memory_back(1, 0, &LIMITS, now);
    assert_eq!(guests.leaving(), 700);
    for guest in &places {
        guests.leave(guest);
    }
    assert_eq!(guests.leaving(), 0);
}

/// Data received for a connection counts as kept before it counts as held by it.
#[test]
fn an_excess_that_is_nobody_s_yet_is_not_taken_from_those_who_hold_little() {
    let guests = Guests::default();
    let now = Instant::now();
    let places = [3, 100, 101].map(|held| {
        let guest = guests.enter(now);
        guest.held.set(held);
        guest
    });
    guests.give_memory_back(u64::MAX, 300, &LIMITS, now);
    let given_up = Some(CloseReason::UnauthenticatedLimit);
    assert_eq!(ended(&places), [None, None, given_up]);
}
