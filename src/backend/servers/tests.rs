//! The shared state of servers, with a clock of the test's own.

use super::*;
use crate::config::{Reach, Server, TrafficLimits};

const WHY: CloseReason = CloseReason::ServerRefused;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service(name: &str, servers: &[(&str, u32)], reach: Reach) -> Service {
    let servers = servers.iter().map(|(address, weight)| Server {
        address: address.parse().unwrap(),
        weight: *weight,
    });
    Service {
        name: name.to_owned(),
        kind: ServiceKind::Servers(servers.collect()),
        allow: Vec::new(),
        udp: false,
        reach,
        sni: None,
        limits: TrafficLimits::default(),
        max_lifetime: None,
    }
}

fn group(servers: &[(&str, u32)], reach: Reach) -> (Backends, Arc<Group>) {
    let backends = Backends::default();
    let groups = backends.prepare(&[service("wiki", servers, reach)]);
    backends.commit(groups.clone());
    (backends, groups[0].clone().unwrap())
}

fn kill(group: &Group, index: usize, now: Instant) {
    for _ in 0..group.health.failures {
        group.members[index]
            .0
            .step(Event::Failed(WHY), &group.health, now);
    }
}

/// How often each server is chosen, with each tunnel closed at once.
fn picks(group: &Group, turn: &Balancer, count: usize, now: Instant) -> Vec<usize> {
    let mut got = vec![0; group.members.len()];
    for _ in 0..count {
        got[group.choose(turn, &[], false, now).unwrap().index] += 1;
    }
    got
}

#[test]
fn a_dead_server_is_left_out_and_one_tunnel_alone_tries_it() {
    let (_fleet, group) = group(&[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)], Reach::default());
    let (turn, now) = (Balancer::default(), Instant::now());
    kill(&group, 0, now);
    assert_eq!(picks(&group, &turn, 10, now + seconds(4)), [0, 10]);
    let later = now + seconds(6);
    let trial = group.choose(&turn, &[], false, later).unwrap();
    assert_eq!(trial.index, 0);
    assert_eq!(
        picks(&group, &turn, 10, later),
        [0, 10],
        "others wait for its outcome"
    );
    trial.server.step(Event::Connected, &group.health, later);
    assert_eq!(picks(&group, &turn, 10, later), [5, 5]);
    // A trial of which nothing is heard does not keep the server dead for ever.
    kill(&group, 0, later);
    let again = later + seconds(6);
    assert_eq!(group.choose(&turn, &[], false, again).unwrap().index, 0);
    let much_later = again + TRIAL_TIME;
    assert_eq!(
        group.choose(&turn, &[], false, much_later).unwrap().index,
        0
    );
}

#[test]
fn where_all_are_dead_they_are_tried_if_asked_for() {
    let (_fleet, group) = group(&[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)], Reach::default());
    let (turn, now) = (Balancer::default(), Instant::now());
    kill(&group, 0, now);
    kill(&group, 1, now);
    assert!(group.choose(&turn, &[], false, now).is_none());
    let first = group.choose(&turn, &[], true, now).unwrap().index;
    assert_ne!(
        group.choose(&turn, &[first], true, now).unwrap().index,
        first
    );
    assert!(group.choose(&turn, &[0, 1], true, now).is_none());
}

#[test]
fn a_drained_server_gets_nothing_even_where_no_other_is_alive() {
    let (backends, group) = group(&[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)], Reach::default());
    let (turn, now) = (Balancer::default(), Instant::now());
    assert!(backends.drain("wiki", "10.0.0.9:1", true).is_none());
    assert_eq!(
        backends.drain("wiki", "10.0.0.1:1", true).unwrap().state,
        "drained"
    );
    kill(&group, 1, now);
    assert!(group.choose(&turn, &[], false, now).is_none());
    assert_eq!(group.choose(&turn, &[], true, now).unwrap().index, 1);
    // Brought back, it is taken for alive, also where it had died meanwhile.
    kill(&group, 0, now);
    assert_eq!(
        backends.drain("wiki", "10.0.0.1:1", false).unwrap().state,
        "up"
    );
    assert_eq!(picks(&group, &turn, 3, now), [3, 0]);
}

#[test]
fn what_came_back_takes_a_growing_share() {
    let mut reach = Reach::default();
    reach.health.slow_start = Some(seconds(10));
    let (backends, group) = group(&[("10.0.0.1:1", 2), ("10.0.0.2:1", 1)], reach);
    let now = Instant::now();
    assert_eq!(picks(&group, &Balancer::default(), 300, now), [200, 100]);
    kill(&group, 0, now);
    group.members[0]
        .0
        .step(Event::Connected, &group.health, now);
    assert_eq!(backends.list()[0].state, "slow-start");
    let mut shares = Vec::new();
    for at in [0, 2, 5, 8, 10] {
        shares.push(picks(&group, &Balancer::default(), 300, now + seconds(at))[0]);
    }
    // 2 x 5 %, 20 %, 50 %, 80 % and 100 % beside 1.
    for (got, expected) in shares.iter().zip([27, 86, 150, 185, 200]) {
        assert!(got.abs_diff(expected) <= 2, "{shares:?}");
    }
}

#[test]
fn the_fewest_tunnels_for_the_weight_and_all_cores_count() {
    let reach = Reach {
        balance: Balance::LeastTunnels,
        ..Reach::default()
    };
    let (backends, group) = group(&[("10.0.0.1:1", 3), ("10.0.0.2:1", 1)], reach);
    let now = Instant::now();
    let cores = [Balancer::starting_at(0), Balancer::starting_at(1)];
    let mut open: Vec<Claim> = (0..40)
        .map(|tunnel| group.choose(&cores[tunnel % 2], &[], false, now).unwrap())
        .collect();
    let tunnels = || -> Vec<u64> { backends.list().iter().map(|info| info.tunnels).collect() };
    assert_eq!(tunnels(), [30, 10]);
    open.retain(|claim| claim.index == 1);
    assert_eq!(tunnels(), [0, 10]);
    open.extend((0..28).map(|_| group.choose(&cores[0], &[], false, now).unwrap()));
    assert_eq!(tunnels(), [28, 10]);
    drop(open);
    assert_eq!(tunnels(), [0, 0]);
}

#[test]
fn a_reload_keeps_the_state_of_a_server_that_stays() {
    let backends = Backends::default();
    let both = [("10.0.0.1:1", 1), ("10.0.0.2:1", 1)];
    backends.commit(backends.prepare(&[service("wiki", &both, Reach::default())]));
    backends.drain("wiki", "10.0.0.2:1", true).unwrap();
    let old = backends.groups()[0].clone().unwrap();
    let claim = old
        .choose(&Balancer::default(), &[], false, Instant::now())
        .unwrap();
    let more = [("10.0.0.3:1", 1), ("10.0.0.2:1", 7), ("10.0.0.1:1", 2)];
    backends.commit(backends.prepare(&[
        service("other", &both, Reach::default()),
        service("wiki", &more, Reach::default()),
    ]));
    let list = backends.list();
    let states: Vec<(&str, &str, &str, u32, u64)> = list
        .iter()
        .map(|i| (&*i.service, &*i.server, &*i.state, i.weight, i.tunnels))
        .collect();
    assert_eq!(
        states,
        [
            ("other", "10.0.0.1:1", "up", 1, 0),
            ("other", "10.0.0.2:1", "up", 1, 0),
            ("wiki", "10.0.0.3:1", "up", 1, 0),
            ("wiki", "10.0.0.2:1", "drained", 7, 0),
            ("wiki", "10.0.0.1:1", "up", 2, 1),
        ]
    );
    drop(claim);
    assert_eq!(backends.list()[4].tunnels, 0);
}
