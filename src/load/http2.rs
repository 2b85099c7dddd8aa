//! Tunnels in HTTP/2 sessions: many in each.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};

use super::Scenario;
use super::session::{LoadFailure, reason, session};
use crate::limits::{LOAD_HTTP2_QUEUE, LOAD_HTTP2_SESSION_WINDOW, LOAD_HTTP2_WINDOW};
use crate::ring::{self, Signal};
use crate::tls::{ALPN_HTTP2, Duplex};

/// The sessions of a run, opened as they are asked for, and again when they have ended.
pub(super) struct Sessions {
    tunnels_per_session: usize,
    places: Vec<Rc<SessionSlot>>,
}

/// Room for one session.
#[derive(Default)]
struct SessionSlot {
    /// `None`: not open.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    /// Raised when the attempt that is under way has ended.
    opening: RefCell<Option<Rc<Signal>>>,
    failure: RefCell<Option<LoadFailure>>,
}

impl Sessions {
    /// None is open yet.
    pub fn new(scenario: &Scenario) -> Self {
        let per_session = scenario.tunnels_per_session.max(1);
        let count = scenario.tunnels.div_ceil(per_session);
        Self {
            tunnels_per_session: per_session,
            places: (0..count).map(|_| Rc::default()).collect(),
        }
    }

    /// Opens a tunnel in the session of this slot, and whether that was resumed is not told: it may
    /// be old.
    pub async fn open(&self, slot: usize, scenario: &Scenario) -> Result<Stream, LoadFailure> {
        let place = &self.places[slot / self.tunnels_per_session];
        let requests = place.requests(scenario).await?;
        let mut requests = requests.ready().await.map_err(|_| LoadFailure::Cut)?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(&scenario.connect)
            .body(())
            .map_err(|error| LoadFailure::Refused(reason(&error.to_string())))?;
        let (response, sending) = requests
            .send_request(request, false)
            .map_err(|_| LoadFailure::Cut)?;
        let response = response.await.map_err(|error| match error.reason() {
            Some(_) => LoadFailure::Refused(reason(&error.to_string())),
            None => LoadFailure::Cut,
        })?;
        if !response.status().is_success() {
            return Err(refused(response.status(), response.headers()));
        }
        Ok(Stream {
            sending: sending.into(),
            receiving: response.into_body().into(),
        })
    }
}

fn refused(status: StatusCode, fields: &http::HeaderMap) -> LoadFailure {
    let mut text = status.as_u16().to_string();
    for value in fields.get_all("proxy-status") {
        text.push(' ');
        text.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    LoadFailure::Refused(reason(&text))
}

/// The attempt to open a session; those who wait are woken when it has ended, in whatever way.
struct Opening<'a>(&'a SessionSlot);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(signal) = self.0.opening.take() {
            signal.raise();
        }
    }
}

impl SessionSlot {
    /// The session; the first who asks opens it.
    async fn requests(
        self: &Rc<Self>,
        scenario: &Scenario,
    ) -> Result<SendRequest<Bytes>, LoadFailure> {
        let waits_for = self.opening.borrow().clone();
        if let Some(opening) = waits_for {
            opening.wait().await;
            let open = self.requests.borrow().clone();
            let failure = || {
                self.failure
                    .borrow()
                    .clone()
                    .unwrap_or(LoadFailure::Connect)
            };
            return open.ok_or_else(failure);
        }
        if let Some(open) = &*self.requests.borrow() {
            return Ok(open.clone());
        }
        *self.opening.borrow_mut() = Some(Rc::default());
        let _opening = Opening(self);
        match self.open(scenario).await {
            Ok(requests) => {
                *self.requests.borrow_mut() = Some(requests.clone());
                Ok(requests)
            }
            Err(failure) => {
                *self.failure.borrow_mut() = Some(failure.clone());
                Err(failure)
            }
        }
    }

    async fn open(self: &Rc<Self>, scenario: &Scenario) -> Result<SendRequest<Bytes>, LoadFailure> {
        let mut scenario = scenario.clone();
        if let Some((config, _)) = &mut scenario.tls {
            let mut own = rustls::ClientConfig::clone(config);
            own.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
            *config = own.into();
        }
        let (stream, carry, _) = session(&scenario).await?;
        let duplex = Duplex::new(stream, carry);
        let mut builder = Builder::new();
        builder
            .initial_window_size(LOAD_HTTP2_WINDOW)
            .initial_connection_window_size(LOAD_HTTP2_SESSION_WINDOW)
            .max_send_buffer_size(LOAD_HTTP2_QUEUE)
            .enable_push(false);
        let (requests, mut connection) = builder
            .handshake(duplex.clone())
            .await
            .map_err(|_| LoadFailure::Cut)?;
        let place = self.clone();
        ring::spawn(async move {
            poll_fn(|context| {
                let ended = Pin::new(&mut connection).poll(context);
                // All that was written in this turn, in one piece. A failure shows in what is read.
                let _ = duplex.poll_send(context);
                ended.map(|_| ())
            })
            .await;
            place.requests.take();
        });
        Ok(requests)
    }
}

/// One tunnel.
pub(super) struct Stream {
    sending: RefCell<SendStream<Bytes>>,
    receiving: RefCell<RecvStream>,
}

impl Stream {
    /// Sends all of `payload`, as the peer's windows let it go.
    pub async fn send(&self, mut payload: Bytes) -> Result<(), LoadFailure> {
        poll_fn(|context| {
            let mut sending = self.sending.borrow_mut();
            loop {
                sending.reserve_capacity(payload.len());
                while sending.capacity() == 0 {
                    let Some(Ok(_)) = ready!(sending.poll_capacity(context)) else {
                        return Poll::Ready(Err(LoadFailure::Cut));
                    };
                }
                let part = payload.split_to(sending.capacity().min(payload.len()));
                if sending.send_data(part, false).is_err() {
                    return Poll::Ready(Err(LoadFailure::Cut));
                }
                if payload.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }

    /// Receives what has come, at least one byte; 0 at the end.
    pub async fn recv(&self, mut take: impl FnMut(&[u8])) -> Result<usize, LoadFailure> {
        poll_fn(|context| {
            let mut receiving = self.receiving.borrow_mut();
            loop {
                let Some(data) = ready!(receiving.poll_data(context)) else {
                    return Poll::Ready(Ok(0));
                };
                let Ok(data) = data else {
                    return Poll::Ready(Err(LoadFailure::Cut));
                };
                if data.is_empty() {
                    continue;
                }
                take(&data);
                let _ = receiving.flow_control().release_capacity(data.len());
                return Poll::Ready(Ok(data.len()));
            }
        })
        .await
    }

    /// Ends the tunnel in order: one reset after the other in a session is what a peer takes for an
    /// attack.
    pub async fn end(self) {
        if self
            .sending
            .borrow_mut()
            .send_data(Bytes::new(), true)
            .is_ok()
        {
            while let Ok(1..) = self.recv(|_| ()).await {}
        }
    }
}
