//! How much a device may send before anybody reads it: windows follow what its way carries, not how late it answers, and are
//! given up where its server does not read.

use std::net::TcpStream;
use std::time::Duration;

use adit::limits::{HTTP2_WINDOW_MIN, HTTP2_WINDOW_START};

use crate::common::frames::{
    ACK, DATA, END_HEADERS, HEADERS, PING, Raw, SETTINGS, WIDE, WINDOW_UPDATE, connect_block, frame,
};
use crate::common::{Gateway, PATIENCE, Pki, server};

const PIECE: [u8; 10_000] = [7; 10_000];

/// A client that does what the windows allow.
struct Client {
    raw: Raw,
    /// The window that each stream begins with.
    initial: i64,
    stream: i64,
    session: i64,
}

impl Client {
    /// With a request on stream 1 that is not answered yet.
    fn new(pki: &Pki, gateway: &Gateway) -> Self {
        let mut raw = Raw::open(pki, gateway, &pki.client("device", |_| ()), WIDE);
        let block = connect_block("a.test:1");
        raw.write(&frame(HEADERS, END_HEADERS, 1, &block));
        Self {
            raw,
            initial: 65_535,
            stream: 65_535,
            session: 65_535,
        }
    }

    /// The next frame, and its payload, when its windows are known.
    fn next(&mut self) -> (u8, u8, Vec<u8>) {
        let (kind, flags, stream, payload) = self.raw.next().expect("the session has ended");
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                    let told = u32::from_be_bytes(setting[2..].try_into().unwrap()).into();
                    self.stream += told - self.initial;
                    self.initial = told;
                }
            }
            WINDOW_UPDATE => {
                let more = i64::from(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                match stream {
                    0 => self.session += more,
                    _ => self.stream += more,
                }
            }
            _ => {}
        }
        (kind, flags, payload)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream -= bytes.len() as i64;
        self.session -= bytes.len() as i64;
        self.raw.write(&frame(DATA, 0, 1, bytes));
    }

    fn answer(&mut self, ping: &[u8]) {
        self.raw.write(&frame(PING, ACK, 0, ping));
    }
}

/// What came in a round trip was a window, however late the client had made its end.
#[test]
fn a_late_answer_gains_no_window() {
    const LATE: Duration = Duration::from_secs(2);
    /// More than two thirds of the window, which is what makes it grow.
    const PIECES: usize = 18;
    let pki = Pki::new();
    let sink = |mut stream: TcpStream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    };
    let gateway = Gateway::builder(&pki).servers(&[server(sink)]).start();
    let mut client = Client::new(&pki, &gateway);
    client.send(b"first");
    let mut pings = 0;
    while pings < 5 {
        let (kind, flags, payload) = client.next();
        assert!(
            client.initial <= HTTP2_WINDOW_START.into(),
            "{}",
            client.initial
        );
        if kind != PING || flags & ACK != 0 {
            continue;
        }
        // The first ones are answered at once, so that the way is known.
        pings += 1;
        if pings == 4 {
            (0..PIECES).for_each(|_| client.send(&PIECE));
            std::thread::sleep(LATE);
        }
        client.answer(&payload);
        client.send(b"for the next ping");
    }
}

#[test]
fn a_window_that_nobody_reads_is_given_up() {
    let pki = Pki::new();
    let deaf = server(|_stream| std::thread::sleep(2 * PATIENCE));
    let engine = "idle_timeout = '10m'";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[deaf])
        .start();
    let mut client = Client::new(&pki, &gateway);
    let (mut open, mut most) = (false, 0);
    loop {
        let (kind, flags, payload) = client.next();
        open |= kind == HEADERS;
        if kind == PING && flags & ACK == 0 {
            client.answer(&payload);
        }
        most = most.max(client.initial);
        if most >= i64::from(HTTP2_WINDOW_START) && client.initial == i64::from(HTTP2_WINDOW_MIN) {
            break;
        }
        while open && client.stream.min(client.session) >= PIECE.len() as i64 {
            client.send(&PIECE);
        }
    }
    assert!(client.stream <= 0, "it is filled: {}", client.stream);
}
