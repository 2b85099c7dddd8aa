//! The one table of how a session or a tunnel can end.
//!
//! Each way has its word (metric label and audit word are the same), who caused it, and what the
//! client is told: a TLS alert, or an HTTP status with a `Proxy-Status` header (RFC 9209). The row
//! also says whether it is audited, what the other direction of an HTTP/2 stream sees, and whether
//! the server is to blame. Metrics, audit log, alerts, answers and the health of servers all read
//! this table, so they cannot disagree.
//!
//! It does not decide anything and sends nothing. What a client is told never names a server, an
//! address, a rule or a file: the details say only what kind of refusal it was.

use h2::Reason as Reset;
use rustls::AlertDescription;

/// Who caused an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The device or app.
    Client,
    /// The server behind the gateway, or the name service that should have found it.
    Server,
    /// This node: its limits, its shutdown, its faults.
    Gateway,
    /// The operator's configuration: certificates, registry, rules.
    Policy,
}

impl Who {
    /// The word in metrics and documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Gateway => "gateway",
            Self::Policy => "policy",
        }
    }
}

/// Meaning of an end for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tunnel had been open, and ended.
    End,
    /// The client left or stalled before it could be answered.
    Abandoned,
    /// The gateway said no, and told the client why.
    Refusal,
}

impl Kind {
    /// The word in metrics and documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Abandoned => "abandoned",
            Self::Refusal => "refusal",
        }
    }
}

/// The answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientResponse {
    /// Nothing: there is nobody to tell, or the tunnel's own end says it.
    Silent,
    /// A fatal TLS alert. These are the descriptions that rustls sends for the fault, so that table
    /// and wire agree.
    Alert(AlertDescription),
    /// An HTTP response.
    Http {
        /// Status code.
        status: u16,
        /// Proxy error type (RFC 9209, section 2.3).
        error: &'static str,
        /// The whole value of the `Proxy-Status` header.
        proxy_status: &'static str,
    },
}

/// Presence in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// One line for each.
    Line,
    /// Counted alone: it comes every few seconds, or as fast as a client without a certificate
    /// likes.
    Never,
}

/// Blame for a failure to reach a server: the server may be marked dead for it, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The server did not do what it should.
    Server,
    /// Somebody else failed: the gateway, the client, the name service, the upstream proxy.
    Other,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Metric label and audit word, in kebab case; a contract with dashboards.
    pub word: &'static str,
    /// Who caused it.
    pub who: Who,
    /// Its meaning for the session.
    pub kind: Kind,
    /// The answer to the client.
    pub answer: ClientResponse,
    /// Its presence in the audit log.
    pub audit: Audit,
    /// Code of the RST_STREAM that ends an HTTP/2 stream (RFC 9113, sections 7 and 8.5).
    pub reset: Reset,
    /// Whom a failed attempt to reach a server speaks against.
    pub blame: Blame,
}

macro_rules! answer {
    (silent) => {
        ClientResponse::Silent
    };
    (alert $alert:ident) => {
        ClientResponse::Alert(AlertDescription::$alert)
    };
    (http $status:literal $error:literal $details:literal) => {
        ClientResponse::Http {
            status: $status,
            error: $error,
            proxy_status: concat!("adit; error=", $error, "; details=\"", $details, "\""),
        }
    };
}

// What a row leaves out.
macro_rules! audit {
    () => {
        Audit::Line
    };
    (unaudited) => {
        Audit::Never
    };
}

macro_rules! reset {
    () => {
        Reset::CANCEL
    };
    ($reset:ident) => {
        Reset::$reset
    };
}

macro_rules! blame {
    () => {
        Blame::Other
    };
    (blamed) => {
        Blame::Server
    };
}

// A macro, because it lets the compiler hold what a list of rows cannot: a variant without a row does not exist, and
// `ALL` and the array sizes follow from the same lines.
macro_rules! close_reasons {
    ($(
        $(#[$doc:meta])* $variant:ident = $word:literal $who:ident $kind:ident ($($answer:tt)+)
        $([$audit:ident])? $(reset $reset:ident)? $(server $blame:ident)?;
    )+) => {
        /// Why a session or tunnel ended. [`row`](Self::row) says what follows from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason {
            $($(#[$doc])* $variant,)+
        }

        impl CloseReason {
            /// Every reason, in the table's order: `ALL[reason.index()] == reason`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The table's row.
            #[must_use]
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        word: $word,
                        who: Who::$who,
                        kind: Kind::$kind,
                        answer: answer!($($answer)+),
                        audit: audit!($($audit)?),
                        reset: reset!($($reset)?),
                        blame: blame!($($blame)?),
                    },)+
                }
            }
        }
    };
}

close_reasons! {
    // Ends of a tunnel that was open.
    /// Both directions were closed in order.
    Closed = "closed" Client End (silent);
    /// The client's connection ended without `close_notify`, so its last bytes may be missing (RFC
    /// 8446, section 6.1).
    ClientTruncated = "client-truncated" Client End (silent);
    /// The client reset the connection.
    ClientReset = "client-reset" Client End (silent);
    /// The server reset the connection.
    ServerReset = "server-reset" Server End (silent) reset CONNECT_ERROR;
    /// The client sent what it must not in an HTTP/2 session; `adit_http2_abuse_total` says what.
    ClientFlood = "client-flood" Client End (silent) reset ENHANCE_YOUR_CALM;
    /// The client of an HTTP/2 session let no byte through its flow control, or left SETTINGS
    /// unacknowledged, for so long that it is taken to be gone.
    ClientStalled = "client-stalled" Client End (silent) reset ENHANCE_YOUR_CALM;
    /// The client broke the HTTP/2 protocol.
    Http2Protocol = "http-framing" Client End (silent) reset PROTOCOL_ERROR;
    /// The server's connection ended without `close_notify`, so its last bytes may be missing.
    ServerTruncated = "server-truncated" Server End (silent) reset CONNECT_ERROR;
    /// TLS with the server broke: an alert, or a breach of the protocol.
    ServerTlsBroken = "server-tls-broken" Server End (silent) reset CONNECT_ERROR;
    /// No byte in either direction for the idle timeout; for an HTTP/2 session, no tunnel.
    IdleTimeout = "idle-timeout" Client End (silent);
    /// A stream of capsules cannot be read any more (RFC 9297, section 3.3).
    CapsuleProtocol = "capsule-protocol" Client End (silent) reset PROTOCOL_ERROR;
    /// The client asked what the gateway is for, and was answered. No tunnel was opened.
    ConfigurationRead = "configuration-read" Client End (silent);
    /// The tunnel has been open for as long as it may.
    LifetimeOver = "lifetime-over" Gateway End (silent);
    /// The tunnel was still open when the drain timeout ran out.
    DrainTimeout = "drain-timeout" Gateway End (silent);
    /// The registry says now that the device is blocked.
    CutDeviceBlocked = "cut-device-blocked" Policy End (alert AccessDenied);
    /// The device is not in the registry any more, and unmanaged devices are blocked.
    CutDeviceUnmanaged = "cut-device-unmanaged" Policy End (alert AccessDenied);
    /// The client certificate was revoked while the tunnel was open.
    CutCertificateRevoked = "cut-certificate-revoked" Policy End (alert CertificateRevoked);
    /// The client certificate, or one of its issuers, expired while the tunnel was open.
    CutCertificateExpired = "cut-certificate-expired" Policy End (alert CertificateExpired);
    /// The client certificate does not chain to a group certificate any more.
    CutCertificateUntrusted = "cut-certificate-untrusted" Policy End (alert UnknownCA);
    /// The profile reads other names in the client certificate now.
    CutIdentityChanged = "cut-identity-changed" Policy End (alert AccessDenied);
    /// No rule allows this app to reach this destination any more.
    CutNoRule = "cut-no-rule" Policy End (alert AccessDenied);
    /// The rules lead to another service now.
    CutRerouted = "cut-rerouted" Policy End (alert AccessDenied);
    /// The node has no profile any more.
    CutUnconfigured = "cut-unconfigured" Policy End (alert AccessDenied);
    /// The tunnel was closed through the admin listener.
    CutByAdmin = "cut-by-admin" Policy End (alert AccessDenied);
    /// A fault of the node itself; the status is for a fault before the tunnel was open.
    GatewayError = "gateway-error" Gateway End (http 500 "proxy_internal_error" "internal error")
        reset INTERNAL_ERROR;

    // In front of the session.
    /// The connection ended before its first byte, as the check of a load balancer does.
    Unused = "unused" Client Abandoned (silent) [unaudited];
    /// The plain listener has answered a health check.
    HealthCheck = "health-check" Client Abandoned (silent) [unaudited];
    /// Only trusted proxies may send a PROXY protocol header, or use the plain listener, and this
    /// was none.
    ProxyUntrusted = "proxy-untrusted" Policy Refusal (alert AccessDenied);
    /// The connection of a trusted proxy did not begin with the PROXY protocol header that is
    /// required.
    ProxyMissing = "proxy-missing" Client Refusal (alert DecodeError);
    /// A PROXY protocol header that breaks its specification.
    ProxyMalformed = "proxy-malformed" Client Refusal (alert DecodeError);

    // Before a client has shown who it is.
    /// Too many clients had not shown who they are, and this one had kept the gateway waiting for
    /// longest.
    UnauthenticatedLimit = "unauthenticated-limit" Gateway Abandoned (silent) [unaudited];
    /// The same of the clients of one source address.
    SourceLimit = "source-limit" Client Abandoned (silent) [unaudited];
    /// Too many handshakes of the source address had failed.
    SourceFailures = "source-failures" Client Abandoned (silent) [unaudited];

    // The TLS handshake.
    /// The handshake was not complete within the handshake timeout.
    HandshakeTimeout = "handshake-timeout" Client Abandoned (silent);
    /// The client left during the handshake, or refused the gateway's certificate.
    HandshakeAborted = "handshake-aborted" Client Abandoned (silent);
    /// The first bytes were not TLS.
    NotTls = "not-tls" Client Refusal (alert DecodeError);
    /// No client certificate was presented.
    CertificateRequired = "certificate-required" Policy Refusal (alert CertificateRequired);
    /// The client certificate does not chain to a group certificate.
    UnknownCa = "unknown-ca" Policy Refusal (alert UnknownCA);
    /// The client certificate, or one of its issuers, has expired.
    CertificateExpired = "certificate-expired" Policy Refusal (alert CertificateExpired);
    /// The client certificate is not valid yet. TLS has no alert of its own for this (RFC 8446,
    /// section 6.2).
    CertificateNotYetValid = "certificate-not-yet-valid" Policy Refusal (alert CertificateExpired);
    /// The client certificate is revoked.
    CertificateRevoked = "certificate-revoked" Policy Refusal (alert CertificateRevoked);
    /// No valid CRL covers the client certificate. The alert is the one that OpenSSL and rustls
    /// send here.
    RevocationUnknown = "revocation-unknown" Policy Refusal (alert UnknownCA);
    /// The client certificate is not meant for client authentication.
    CertificateUsage = "certificate-usage" Policy Refusal (alert UnsupportedCertificate);
    /// The client certificate cannot be read or has a broken signature.
    CertificateInvalid = "certificate-invalid" Policy Refusal (alert BadCertificate);
    /// The client certificate is valid but holds no name where the profile looks for the device.
    IdentityMissing = "identity-missing" Policy Refusal (alert AccessDenied);
    /// Another breach of the TLS protocol, or no version or cipher suite in common. rustls chooses
    /// the alert by the fault; the one given is for nothing in common.
    TlsProtocol = "tls-protocol" Client Refusal (alert HandshakeFailure);

    // The tunnel request.
    /// Not a valid CONNECT request.
    Malformed = "malformed-request" Client Refusal (http 400 "http_request_error" "malformed CONNECT request");
    /// A request for something else than a tunnel.
    NotConnect = "not-connect" Client Refusal (http 405 "http_request_error" "only CONNECT is served");
    /// An extended CONNECT (RFC 8441) for a protocol that is not spoken here.
    ProtocolUnsupported = "protocol-unsupported" Client Refusal
        (http 501 "http_request_error" "protocol is not supported");
    /// The request was not complete within the handshake timeout.
    RequestTimeout = "request-timeout" Client Refusal (http 408 "http_request_error" "request not complete in time");
    /// The client left before its request was complete or answered.
    RequestAborted = "request-aborted" Client Abandoned (silent);
    /// The request's header is larger than the limit.
    HeaderTooLarge = "header-too-large" Client Refusal (http 431 "http_request_error" "request header too large");

    // Policy.
    /// A request on the plain listener names a client certificate in a place that does not count,
    /// beside or instead of the one that does.
    IdentityConflict = "identity-conflict" Policy Refusal
        (http 403 "http_request_denied" "client certificate in a place that does not count");
    /// The device is not in the registry, and unmanaged devices are blocked.
    DeviceUnmanaged = "device-unmanaged" Policy Refusal (http 403 "http_request_denied" "device is not managed");
    /// The registry says that the device is blocked.
    DeviceBlocked = "device-blocked" Policy Refusal (http 403 "http_request_denied" "device is blocked");
    /// No rule allows this app to reach this destination.
    NoRule = "no-rule" Policy Refusal (http 403 "http_request_denied" "no rule allows this destination");
    /// No rule is about this destination, and the profile lets the device go there directly.
    /// Apple's relay clients take this status and error for that.
    NoRuleDirect = "no-rule-direct" Policy Refusal
        (http 503 "destination_unavailable" "destination is not served here");
    /// The service takes no datagrams.
    UdpNotAllowed = "udp-not-allowed" Policy Refusal (http 403 "http_request_denied" "no UDP to this destination");
    /// The destination's address is one that a tunnel must never reach.
    DestinationForbidden = "destination-forbidden" Policy Refusal
        (http 403 "destination_ip_prohibited" "destination address is not allowed");

    // Dialling the server.
    /// Each server that was tried refused the connection.
    ServerRefused = "server-refused" Server Refusal (http 502 "connection_refused" "server refused the connection")
        reset CONNECT_ERROR server blamed;
    /// No route to the server.
    ServerUnreachable = "server-unreachable" Server Refusal (http 502 "destination_ip_unroutable" "server is unreachable")
        reset CONNECT_ERROR server blamed;
    /// The server's name does not exist or has no address.
    NameNotFound = "name-not-found" Server Refusal (http 502 "dns_error" "name not found")
        reset CONNECT_ERROR server blamed;
    /// The name service did not answer in time.
    NameTimeout = "name-timeout" Server Refusal (http 504 "dns_timeout" "name not resolved in time")
        reset CONNECT_ERROR;
    /// The device waits for as many names as it may.
    NameLimit = "name-limit" Gateway Refusal (http 503 "connection_limit_reached" "device waits for too many names");
    /// The server did not answer within the connect timeout.
    ConnectTimeout = "connect-timeout" Server Refusal (http 504 "connection_timeout" "server did not answer in time")
        reset CONNECT_ERROR server blamed;
    /// TLS with the server failed: a breach of the protocol, or nothing in common.
    ServerTls = "server-tls" Server Refusal (http 502 "tls_protocol_error" "TLS with the server failed")
        reset CONNECT_ERROR server blamed;
    /// The server ended the handshake with an alert, for example because it wants a client
    /// certificate.
    ServerTlsAlert = "server-tls-alert" Server Refusal (http 502 "tls_alert_received" "server refused TLS with an alert")
        reset CONNECT_ERROR server blamed;
    /// The server's certificate is expired, of an unknown CA, or for another name.
    ServerCertificate = "server-certificate" Server Refusal
        (http 502 "tls_certificate_error" "server's certificate is not accepted")
        reset CONNECT_ERROR server blamed;
    /// Each server of the service is drained, or dead where dead ones are not tried.
    NoServer = "no-server" Server Refusal (http 502 "destination_unavailable" "no server takes tunnels")
        reset CONNECT_ERROR;
    /// The upstream proxy cannot be connected to.
    UpstreamUnreachable = "upstream-proxy-unreachable" Server Refusal
        (http 502 "destination_unavailable" "upstream proxy is unreachable") reset CONNECT_ERROR;
    /// The upstream proxy does not accept the credentials that are configured.
    UpstreamAuthentication = "upstream-proxy-authentication" Policy Refusal
        (http 502 "proxy_configuration_error" "upstream proxy wants other credentials");
    /// The upstream proxy refuses this destination.
    UpstreamRefused = "upstream-proxy-refused" Server Refusal
        (http 502 "connection_refused" "upstream proxy refused the destination") reset CONNECT_ERROR;
    /// The upstream proxy did not reach the server.
    UpstreamFailed = "upstream-proxy-failed" Server Refusal
        (http 502 "destination_unavailable" "upstream proxy did not reach the server")
        reset CONNECT_ERROR server blamed;
    /// The upstream proxy's answer is not HTTP, or too long.
    UpstreamProtocol = "upstream-proxy-protocol" Server Refusal
        (http 502 "http_protocol_error" "upstream proxy gave no valid answer") reset CONNECT_ERROR;

    // Limits.
    /// The node holds as many tunnels as it may.
    NodeLimit = "node-limit" Gateway Refusal (http 503 "connection_limit_reached" "node is at its tunnel limit");
    /// The device holds as many tunnels as it may.
    DeviceLimit = "device-limit" Gateway Refusal (http 503 "connection_limit_reached" "device is at its tunnel limit");
    /// The service holds as many tunnels as it may.
    ServiceLimit = "service-limit" Gateway Refusal (http 503 "connection_limit_reached" "service is at its tunnel limit");
    /// The service has had as many new tunnels as it may for the moment.
    ServiceRate = "service-rate" Gateway Refusal (http 503 "connection_limit_reached" "too many new tunnels to the service");
    /// The app holds as many tunnels as it may.
    AppLimit = "app-limit" Gateway Refusal (http 503 "connection_limit_reached" "app is at its tunnel limit");
    /// The app has had as many new tunnels as it may for the moment.
    AppRate = "app-rate" Gateway Refusal (http 503 "connection_limit_reached" "too many new tunnels of the app");
    /// The node is shutting down and takes no new tunnels.
    Draining = "draining" Gateway Refusal (http 503 "proxy_internal_response" "node is draining");
}

impl CloseReason {
    /// How many reasons there are: the size of an array with one place for each.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason's place in [`ALL`](Self::ALL), below [`COUNT`](Self::COUNT).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Metric label and audit word, in kebab case.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// Who caused it.
    #[must_use]
    pub const fn who(self) -> Who {
        self.row().who
    }

    /// The HTTP status to answer with; `None` where the client gets no HTTP answer.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self.row().answer {
            ClientResponse::Http { status, .. } => Some(status),
            ClientResponse::Silent | ClientResponse::Alert(_) => None,
        }
    }

    /// The proxy error type of RFC 9209, section 2.3.
    #[must_use]
    pub const fn proxy_error(self) -> Option<&'static str> {
        match self.row().answer {
            ClientResponse::Http { error, .. } => Some(error),
            ClientResponse::Silent | ClientResponse::Alert(_) => None,
        }
    }

    /// The whole value of the `Proxy-Status` header (RFC 9209), different for each reason that has
    /// one.
    #[must_use]
    pub const fn proxy_status(self) -> Option<&'static str> {
        match self.row().answer {
            ClientResponse::Http { proxy_status, .. } => Some(proxy_status),
            ClientResponse::Silent | ClientResponse::Alert(_) => None,
        }
    }

    /// The TLS alert that the client gets.
    #[must_use]
    pub const fn alert(self) -> Option<AlertDescription> {
        match self.row().answer {
            ClientResponse::Alert(alert) => Some(alert),
            ClientResponse::Silent | ClientResponse::Http { .. } => None,
        }
    }

    /// Presence in the audit log.
    #[must_use]
    pub const fn is_audited(self) -> bool {
        matches!(self.row().audit, Audit::Line)
    }

    /// The code of the RST_STREAM that ends an HTTP/2 stream.
    #[must_use]
    pub const fn reset(self) -> Reset {
        self.row().reset
    }

    /// Returns whether a failed attempt speaks against the server itself, and not against what
    /// leads there.
    #[must_use]
    pub const fn blames_server(self) -> bool {
        matches!(self.row().blame, Blame::Server)
    }

    /// Returns whether the gateway said no: such an end is audited as a refusal.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self.row().kind, Kind::Refusal)
    }
}

#[cfg(test)]
mod tests;
