//! Every bound and pool size as a named constant with its reason.

// tls

/// Bytes of a TLS record's header (RFC 8446, section 5.1).
pub const TLS_RECORD_HEADER: usize = 5;

/// Bytes of plaintext, or of sealed records, that one buffer of the ring can lead to; one such area a thread.
pub const TLS_SCRATCH: usize = 40 * 1024;
