//! An upstream proxy that means harm, or is broken: it costs its own tunnels only.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::common::{World, ask, echo, request, server};

/// A proxy that answers each request with `answer`, and then does not hang up.
fn proxy(answer: Vec<u8>) -> SocketAddr {
    server(move |mut stream: TcpStream| {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(&answer);
        let _ = stream.read(&mut head);
    })
}

fn services(proxy: SocketAddr, good: SocketAddr) -> String {
    format!(
        "[[profile.rule]]\nhost = 'bad.test'\nport = '*'\nservice = 'bad'\n\
         [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'good'\n\
         [[profile.service]]\nname = 'bad'\nservers = ['wiki.behind.example:443']\n\
         upstream_proxy = 'http://{proxy}'\n\
         [[profile.service]]\nname = 'good'\nservers = ['{good}']\n"
    )
}

/// Each interim answer (RFC 9110, section 15.2) took a frame of the stack: some 1200 of them ended the process.
#[test]
fn interim_answers_without_end_cost_one_tunnel() {
    let interim = b"HTTP/1.1 102 \r\n\r\n";
    for answer in [
        interim.repeat(9),
        interim.repeat(1190),
        interim.repeat(100_000),
    ] {
        let services = services(proxy(answer), server(echo));
        let world = World::new(|node| node.rest(&services));
        let mut other = world.connect();
        let told = ask(&mut other, &request("good.test:1")).unwrap();
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        for _ in 0..3 {
            let mut session = world.connect();
            let told = ask(&mut session, &request("bad.test:1")).unwrap();
            assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
        }
        assert_eq!(world.gateway.ended("upstream-proxy-protocol"), 3.0);
        // The other tunnel has not noticed.
        let mut back = [0; 5];
        other.write_all(b"hello").unwrap();
        other.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
}
