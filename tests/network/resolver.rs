//! The system's settings of name resolution: they change while a node runs, and name servers lie, lose and fail.

use std::net::{Ipv4Addr, SocketAddr};

use crate::common::names::{Etc, NameServer, Says};
use crate::common::network::outside;
use crate::common::{World, echo, server, until};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A gateway with a service whose server has this name, and one that leads where the app wants.
struct Stage {
    world: World,
    echo: SocketAddr,
}

impl Stage {
    fn new(server_name: &str, engine: &str) -> Self {
        let echo = server(echo);
        let rest = format!(
            "[[profile.service]]\nname = 'wiki'\nservers = ['{server_name}:{}']\n\
             [profile.service.health]\ndead_time = '1s'\ndead_time_max = '1s'\n\
             [[profile.service]]\nname = '<TCP_ANY>'\nallow = ['127.0.0.0/8']\n\
             [[profile.rule]]\nhost = 'wiki.test'\nport = '*'\nservice = 'wiki'\n\
             [[profile.rule]]\nhost = '*'\nport = '*'\nservice = '<TCP_ANY>'\n",
            echo.port()
        );
        let world = World::new(|node| node.engine(engine).rest(&rest));
        Self { world, echo }
    }

    /// What a request for a tunnel to this name is answered.
    fn asks(&self, name: &str) -> String {
        self.world.answer(&format!("{name}:{}", self.echo.port()))
    }

    fn opens(&self, name: &str) -> bool {
        self.asks(name).starts_with("HTTP/1.1 200 ")
    }
}

#[test]
fn settings_are_followed_as_they_change() {
    if outside(concat!(
        module_path!(),
        "::settings_are_followed_as_they_change"
    )) {
        return;
    }
    let etc = Etc::mount("nameserver 127.0.0.53\n", "127.0.0.1 localhost\n");
    let (old, new) = (
        NameServer::start("127.0.0.53"),
        NameServer::start("127.0.0.54"),
    );
    new.set("new.test", Says::Address(HERE));
    let stage = Stage::new("hosts.corp.test", "");
    assert!(stage.asks("wiki.test").contains(" 502 "));
    assert!(stage.asks("new.test").contains("name not found"));

    // A new entry, by itself.
    etc.put("hosts", "127.0.0.1 localhost\n127.0.0.1 hosts.corp.test\n");
    until("the new entry", || stage.opens("wiki.test"));

    // Name servers that cannot be taken, and a reload: those before stay.
    for nothing in ["", "nameserver\n", "nameserver 127.0.0."] {
        etc.put("resolv.conf", nothing);
        stage.world.gateway.reload();
        let name = format!("after{}.test", nothing.len());
        old.set(&name, Says::Address(HERE));
        assert!(stage.opens(&name), "{nothing:?}");
    }

    let refused = || stage.world.gateway.metric("adit_name_settings_refused", "");
    assert_eq!(refused(), 1.0);

    // Another name server. What the old one said does not count any more.
    assert!(stage.asks("new.test").contains("name not found"));
    etc.put("resolv.conf", "nameserver 127.0.0.54\n");
    stage.world.gateway.reload();
    assert!(stage.opens("new.test"));
    assert_eq!(refused(), 0.0);

    // A name that comes into being is known soon, whatever the zone says of names that do not exist.
    assert!(stage.asks("later.test").contains("name not found"));
    new.set("later.test", Says::Address(HERE));
    until("the new name", || stage.opens("later.test"));

    // An entry that goes, by itself.
    etc.put("hosts", "127.0.0.1 localhost\n");
    until("the entry's end", || !stage.opens("wiki.test"));
    assert!(
        stage
            .world
            .gateway
            .metric("adit_name_settings_changes_total", "")
            >= 4.0
    );
}

#[test]
fn names_of_the_configuration_may_be_short_and_those_of_apps_never() {
    if outside(concat!(
        module_path!(),
        "::names_of_the_configuration_may_be_short_and_those_of_apps_never"
    )) {
        return;
    }
    let _etc = Etc::mount(
        "nameserver 127.0.0.53\nsearch other.test corp.test\n",
        "127.0.0.1 localhost\n",
    );
    let names = NameServer::start("127.0.0.53");
    names.set("wiki.corp.test", Says::Address(HERE));
    names.set("secret.corp.test", Says::Address(HERE));
    let stage = Stage::new("wiki", "");
    assert!(stage.opens("wiki.test"));
    assert!(names.was_asked("wiki.other.test"), "in order");
    assert!(stage.asks("secret").contains("name not found"));
    assert!(names.was_asked("secret") && !names.was_asked("secret.corp.test"));
    // What is known of the server's short name is not what the app's name is.
    assert!(stage.asks("wiki").contains("name not found"));
}

#[test]
fn name_servers_that_fail_cost_a_tunnel_little() {
    if outside(concat!(
        module_path!(),
        "::name_servers_that_fail_cost_a_tunnel_little"
    )) {
        return;
    }
    let servers = "nameserver 127.0.0.51\nnameserver 127.0.0.52\nnameserver 127.0.0.53\n";
    let _etc = Etc::mount(servers, "127.0.0.1 localhost hosts.test\n");
    let (first, last) = (
        NameServer::start("127.0.0.51"),
        NameServer::start("127.0.0.53"),
    );
    for above in ["*.test", "*.corp.test"] {
        first.set(above, Says::Nothing);
    }
    for (name, says) in [
        ("whole.test", Says::Address(HERE)),
        ("half.test", Says::HalfLost(HERE)),
        ("truncated.test", Says::Truncated(HERE)),
        ("failing.test", Says::Fails),
        ("silent.test", Says::Nothing),
    ] {
        last.set(name, says);
    }
    let stage = Stage::new("whole.test", "connect_timeout = '4s'");
    for name in [
        "wiki.test",
        "hosts.test",
        "whole.test",
        "half.test",
        "truncated.test",
    ] {
        let answer = stage.asks(name);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
    }
    // Neither says that there is no such name.
    for name in ["failing.test", "silent.test"] {
        let answer = stage.asks(name);
        assert!(answer.starts_with("HTTP/1.1 504 "), "{name}: {answer}");
    }
}
