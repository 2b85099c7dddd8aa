//! The one table of how a session or a tunnel can end.
//!
//! Each way has its word (metric label and audit word are the same), who caused it, and what the client is told: a TLS
//! alert, or an HTTP status with a `Proxy-Status` header (RFC 9209). Metrics, audit log, alerts and answers all read
//! this table, so they cannot disagree.
//!
//! It does not decide anything and sends nothing. What a client is told never names a server, an address, a rule or a
//! file: the details say only what kind of refusal it was.

/// Who caused an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The device or app.
    Client,
    /// The server behind the gateway, or the name service that should have found it.
    Server,
    /// This node: its limits, its shutdown, its faults.
    Gateway,
    /// What the operator configured: certificates, registry, rules.
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

/// What an end means for the session.
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

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: there is nobody to tell, or the tunnel's own end says it.
    Silent,
    /// A fatal TLS alert with this description (RFC 8446, section 6). These are the descriptions that rustls sends for
    /// the fault, so that table and wire agree.
    Alert(&'static str),
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

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Metric label and audit word, in kebab case; a contract with dashboards.
    pub word: &'static str,
    /// Who caused it.
    pub who: Who,
    /// What it means for the session.
    pub kind: Kind,
    /// What the client is told.
    pub answer: Answer,
}

macro_rules! answer {
    (silent) => {
        Answer::Silent
    };
    (alert $description:literal) => {
        Answer::Alert($description)
    };
    (http $status:literal $error:literal $details:literal) => {
        Answer::Http {
            status: $status,
            error: $error,
            proxy_status: concat!("adit; error=", $error, "; details=\"", $details, "\""),
        }
    };
}

// A macro, because it lets the compiler hold what a list of rows cannot: a variant without a row does not exist, and
// `ALL` and the array sizes follow from the same lines.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal $who:ident $kind:ident ($($answer:tt)+);)+) => {
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
    /// The client's connection ended without `close_notify`, so its last bytes may be missing (RFC 8446, section 6.1).
    ClientTruncated = "client-truncated" Client End (silent);
    /// The client reset the connection.
    ClientReset = "client-reset" Client End (silent);
    /// The server reset the connection.
    ServerReset = "server-reset" Server End (silent);
    /// The client sent what it must not in an HTTP/2 session; `adit_http2_abuse_total` says what.
    ClientFlood = "client-flood" Client End (silent);
    /// The client of an HTTP/2 session let no byte through its flow control, or left SETTINGS unacknowledged, for so long that
    /// it is taken to be gone.
    ClientStalled = "client-stalled" Client End (silent);
    /// The client broke the HTTP/2 protocol.
    Http2Protocol = "http-framing" Client End (silent);
    /// The server's connection ended without `close_notify`, so its last bytes may be missing.
    ServerTruncated = "server-truncated" Server End (silent);
    /// TLS with the server broke: an alert, or a breach of the protocol.
    ServerTlsBroken = "server-tls-broken" Server End (silent);
    /// No byte in either direction for the idle timeout; for an HTTP/2 session, no tunnel.
    IdleTimeout = "idle-timeout" Client End (silent);
    /// A stream of capsules cannot be read any more (RFC 9297, section 3.3).
    CapsuleProtocol = "capsule-protocol" Client End (silent);
    /// The client asked what the gateway is for, and was answered. No tunnel was opened.
    ConfigurationRead = "configuration-read" Client End (silent);
    /// The tunnel has been open for as long as it may.
    LifetimeOver = "lifetime-over" Gateway End (silent);
    /// The tunnel was still open when the drain timeout ran out.
    DrainTimeout = "drain-timeout" Gateway End (silent);
    /// The registry says now that the device is blocked.
    CutDeviceBlocked = "cut-device-blocked" Policy End (alert "access_denied");
    /// The device is not in the registry any more, and unmanaged devices are blocked.
    CutDeviceUnmanaged = "cut-device-unmanaged" Policy End (alert "access_denied");
    /// The client certificate was revoked while the tunnel was open.
    CutCertificateRevoked = "cut-certificate-revoked" Policy End (alert "certificate_revoked");
    /// The client certificate, or one of its issuers, expired while the tunnel was open.
    CutCertificateExpired = "cut-certificate-expired" Policy End (alert "certificate_expired");
    /// The client certificate does not chain to a group certificate any more.
    CutCertificateUntrusted = "cut-certificate-untrusted" Policy End (alert "unknown_ca");
    /// The profile reads other names in the client certificate now.
    CutIdentityChanged = "cut-identity-changed" Policy End (alert "access_denied");
    /// No rule allows this app to reach this destination any more.
    CutNoRule = "cut-no-rule" Policy End (alert "access_denied");
    /// The rules lead to another service now.
    CutRerouted = "cut-rerouted" Policy End (alert "access_denied");
    /// The node has no profile any more.
    CutUnconfigured = "cut-unconfigured" Policy End (alert "access_denied");
    /// The tunnel was closed through the admin listener.
    CutByAdmin = "cut-by-admin" Policy End (alert "access_denied");
    /// A fault of the node itself; the status is for a fault before the tunnel was open.
    GatewayError = "gateway-error" Gateway End (http 500 "proxy_internal_error" "internal error");

    // In front of the session.
    /// The connection ended before its first byte, as the check of a load balancer does. Not audited.
    Unused = "unused" Client Abandoned (silent);
    /// The plain listener has answered a health check. Not audited.
    HealthCheck = "health-check" Client Abandoned (silent);
    /// Only trusted proxies may send a PROXY protocol header, or use the plain listener, and this was none.
    ProxyUntrusted = "proxy-untrusted" Policy Refusal (alert "access_denied");
    /// The connection of a trusted proxy did not begin with the PROXY protocol header that is required.
    ProxyMissing = "proxy-missing" Client Refusal (alert "decode_error");
    /// A PROXY protocol header that breaks its specification.
    ProxyMalformed = "proxy-malformed" Client Refusal (alert "decode_error");

    // Before a client has shown who it is.
    /// Too many clients had not shown who they are, and this one had kept the gateway waiting for longest.
    UnauthenticatedLimit = "unauthenticated-limit" Gateway Abandoned (silent);
    /// The same of the clients of one source address.
    SourceLimit = "source-limit" Client Abandoned (silent);
    /// Too many handshakes of the source address had failed. Counted, and not written to the audit log.
    SourceFailures = "source-failures" Client Abandoned (silent);

    // The TLS handshake.
    /// The handshake was not complete within the handshake timeout.
    HandshakeTimeout = "handshake-timeout" Client Abandoned (silent);
    /// The client left during the handshake, or refused the gateway's certificate.
    HandshakeAborted = "handshake-aborted" Client Abandoned (silent);
    /// The first bytes were not TLS.
    NotTls = "not-tls" Client Refusal (alert "decode_error");
    /// No client certificate was presented.
    CertificateRequired = "certificate-required" Policy Refusal (alert "certificate_required");
    /// The client certificate does not chain to a group certificate.
    UnknownCa = "unknown-ca" Policy Refusal (alert "unknown_ca");
    /// The client certificate, or one of its issuers, has expired.
    CertificateExpired = "certificate-expired" Policy Refusal (alert "certificate_expired");
    /// The client certificate is not valid yet. TLS has no alert of its own for this (RFC 8446, section 6.2).
    CertificateNotYetValid = "certificate-not-yet-valid" Policy Refusal (alert "certificate_expired");
    /// The client certificate is revoked.
    CertificateRevoked = "certificate-revoked" Policy Refusal (alert "certificate_revoked");
    /// No valid CRL covers the client certificate. The alert is the one that OpenSSL and rustls send here.
    RevocationUnknown = "revocation-unknown" Policy Refusal (alert "unknown_ca");
    /// The client certificate is not meant for client authentication.
    CertificateUsage = "certificate-usage" Policy Refusal (alert "unsupported_certificate");
    /// The client certificate cannot be read or has a broken signature.
    CertificateInvalid = "certificate-invalid" Policy Refusal (alert "bad_certificate");
    /// The client certificate is valid but holds no name where the profile looks for the device.
    IdentityMissing = "identity-missing" Policy Refusal (alert "access_denied");
    /// Another breach of the TLS protocol, or no version or cipher suite in common. rustls chooses the alert by the
    /// fault; the one given is for nothing in common.
    TlsProtocol = "tls-protocol" Client Refusal (alert "handshake_failure");

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
    /// A request on the plain listener names a client certificate in a place that does not count, beside or instead of
    /// the one that does.
    IdentityConflict = "identity-conflict" Policy Refusal
        (http 403 "http_request_denied" "client certificate in a place that does not count");
    /// The device is not in the registry, and unmanaged devices are blocked.
    DeviceUnmanaged = "device-unmanaged" Policy Refusal (http 403 "http_request_denied" "device is not managed");
    /// The registry says that the device is blocked.
    DeviceBlocked = "device-blocked" Policy Refusal (http 403 "http_request_denied" "device is blocked");
    /// No rule allows this app to reach this destination.
    NoRule = "no-rule" Policy Refusal (http 403 "http_request_denied" "no rule allows this destination");
    /// No rule is about this destination, and the profile lets the device go there directly. Apple's relay clients take this
    /// status and error for that.
    NoRuleDirect = "no-rule-direct" Policy Refusal
        (http 503 "destination_unavailable" "destination is not served here");
    /// The service takes no datagrams.
    UdpNotAllowed = "udp-not-allowed" Policy Refusal (http 403 "http_request_denied" "no UDP to this destination");
    /// The destination's address is one that a tunnel must never reach.
    DestinationForbidden = "destination-forbidden" Policy Refusal
        (http 403 "destination_ip_prohibited" "destination address is not allowed");

    // Dialling the server.
    /// Each server that was tried refused the connection.
    ServerRefused = "server-refused" Server Refusal (http 502 "connection_refused" "server refused the connection");
    /// No route to the server.
    ServerUnreachable = "server-unreachable" Server Refusal (http 502 "destination_ip_unroutable" "server is unreachable");
    /// The server's name does not exist or has no address.
    NameNotFound = "name-not-found" Server Refusal (http 502 "dns_error" "name not found");
    /// The name service did not answer in time.
    NameTimeout = "name-timeout" Server Refusal (http 504 "dns_timeout" "name not resolved in time");
    /// The device waits for as many names as it may.
    NameLimit = "name-limit" Gateway Refusal (http 503 "connection_limit_reached" "device waits for too many names");
    /// The server did not answer within the connect timeout.
    ConnectTimeout = "connect-timeout" Server Refusal (http 504 "connection_timeout" "server did not answer in time");
    /// TLS with the server failed: a breach of the protocol, or nothing in common.
    ServerTls = "server-tls" Server Refusal (http 502 "tls_protocol_error" "TLS with the server failed");
    /// The server ended the handshake with an alert, for example because it wants a client certificate.
    ServerTlsAlert = "server-tls-alert" Server Refusal (http 502 "tls_alert_received" "server refused TLS with an alert");
    /// The server's certificate is expired, of an unknown CA, or for another name.
    ServerCertificate = "server-certificate" Server Refusal
        (http 502 "tls_certificate_error" "server's certificate is not accepted");
    /// Each server of the service is drained, or dead where dead ones are not tried.
    NoServer = "no-server" Server Refusal (http 502 "destination_unavailable" "no server takes tunnels");
    /// The upstream proxy cannot be connected to.
    UpstreamUnreachable = "upstream-proxy-unreachable" Server Refusal
        (http 502 "destination_unavailable" "upstream proxy is unreachable");
    /// The upstream proxy does not accept the credentials that are configured.
    UpstreamAuthentication = "upstream-proxy-authentication" Policy Refusal
        (http 502 "proxy_configuration_error" "upstream proxy wants other credentials");
    /// The upstream proxy refuses this destination.
    UpstreamRefused = "upstream-proxy-refused" Server Refusal
        (http 502 "connection_refused" "upstream proxy refused the destination");
    /// The upstream proxy did not reach the server.
    UpstreamFailed = "upstream-proxy-failed" Server Refusal
        (http 502 "destination_unavailable" "upstream proxy did not reach the server");
    /// The upstream proxy's answer is not HTTP, or too long.
    UpstreamProtocol = "upstream-proxy-protocol" Server Refusal
        (http 502 "http_protocol_error" "upstream proxy gave no valid answer");

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
            Answer::Http { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The proxy error type of RFC 9209, section 2.3.
    #[must_use]
    pub const fn proxy_error(self) -> Option<&'static str> {
        match self.row().answer {
            Answer::Http { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The whole value of the `Proxy-Status` header (RFC 9209), different for each reason that has one.
    #[must_use]
    pub const fn proxy_status(self) -> Option<&'static str> {
        match self.row().answer {
            Answer::Http { proxy_status, .. } => Some(proxy_status),
            _ => None,
        }
    }

    /// The description of the TLS alert that the client gets, in the spelling of RFC 8446, section 6.
    #[must_use]
    pub const fn alert(self) -> Option<&'static str> {
        match self.row().answer {
            Answer::Alert(description) => Some(description),
            _ => None,
        }
    }

    /// Whether the gateway said no: such an end is audited as a refusal.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self.row().kind, Kind::Refusal)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// RFC 9209, section 2.3, those that the table uses.
    const PROXY_ERRORS: [&str; 17] = [
        "destination_unavailable",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_protocol_error",
        "proxy_configuration_error",
        "dns_timeout",
        "dns_error",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_timeout",
        "connection_limit_reached",
        "http_request_error",
        "http_request_denied",
        "proxy_internal_response",
        "proxy_internal_error",
    ];

    #[test]
    fn words_are_unique_and_in_kebab_case() {
        let mut seen = HashSet::new();
        for reason in CloseReason::ALL {
            let word = reason.word();
            assert!(seen.insert(word), "{word} twice");
            assert!(
                word.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{word}"
            );
        }
    }

    #[test]
    fn index_is_the_place_in_all() {
        for (place, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
    }

    #[test]
    fn what_policy_ends_and_each_refusal_tell_the_client_and_nothing_else_but_a_fault_does() {
        for reason in CloseReason::ALL {
            let told = reason.status().is_some() || reason.alert().is_some();
            let cut = reason.row().kind == Kind::End && reason.who() == Who::Policy;
            let may_tell = reason.is_refusal() || cut || *reason == CloseReason::GatewayError;
            assert_eq!(told, may_tell, "{reason:?}");
        }
    }

    #[test]
    fn proxy_status_is_distinct_and_well_formed() {
        let mut seen = HashSet::new();
        for reason in CloseReason::ALL {
            let Some(value) = reason.proxy_status() else {
                continue;
            };
            assert!(seen.insert(value), "{value} twice");
            assert!(
                PROXY_ERRORS.contains(&reason.proxy_error().expect("has a header")),
                "{value}"
            );
            // An sf-string (RFC 8941, section 3.3.3) holds printable ASCII; these need no escapes.
            let details = value.split("details=").nth(1).expect("has details");
            let inner = details
                .strip_prefix('"')
                .and_then(|d| d.strip_suffix('"'))
                .expect("quoted");
            assert!(
                inner
                    .bytes()
                    .all(|b| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\'),
                "{inner}"
            );
        }
        assert_eq!(
            CloseReason::DeviceUnmanaged.proxy_status(),
            Some("adit; error=http_request_denied; details=\"device is not managed\"")
        );
    }

    /// Apple's relay clients go to the destination themselves when they get both.
    #[test]
    fn only_one_reason_sends_a_device_elsewhere() {
        let elsewhere = |reason: &CloseReason| {
            reason.status() == Some(503) && reason.proxy_error() == Some("destination_unavailable")
        };
        let found: Vec<_> = CloseReason::ALL.iter().copied().filter(elsewhere).collect();
        assert_eq!(found, [CloseReason::NoRuleDirect]);
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        for reason in CloseReason::ALL {
            let Some(status) = reason.status() else {
                continue;
            };
            let expected: &[u16] = match (reason.row().kind, reason.who()) {
                (Kind::Refusal, Who::Client) => &[400, 405, 408, 431, 501],
                (Kind::Refusal, Who::Policy) if *reason == CloseReason::NoRuleDirect => &[503],
                (Kind::Refusal, Who::Policy) => &[403, 502],
                (Kind::Refusal, Who::Server) => &[502, 504],
                (Kind::Refusal, Who::Gateway) => &[503],
                _ => &[500],
            };
            assert!(expected.contains(&status), "{reason:?} {status}");
        }
    }
}
