//! Bounds on certificates, keys and revocation lists.

use std::time::Duration;

/// How deep values may be nested in PKCS#7 and PKCS#12 files. The formats themselves go to about
/// ten; each level may cost a stack frame, and one pass over what is inside.
pub const MAX_DER_DEPTH: usize = 16;

/// Iterations of key derivation that one password-protected file may ask for, all its parts
/// together. Programs write 2048 to 600000 a part; this many take some seconds. A file with 10^9
/// would stop a start or reload for minutes.
pub const MAX_PASSWORD_ITERATIONS: u64 = 10_000_000;

/// Longest password of a certificate file, in bytes.
pub const CERTIFICATE_PASSWORD_MAX: usize = 1024;

/// Largest certificate or key file that is read, in bytes. A bundle of every public root is below
/// 300 KiB; the bound keeps a mistyped path (a disk image, a log) from being read into memory.
pub const MAX_CERTIFICATE_FILE: u64 = 4 * 1024 * 1024;

/// Longest name of a certificate in the store, in bytes: a file's name has room for it and for what
/// is put around it while it is written.
pub const CERTIFICATE_NAME_MAX: usize = 64;

/// Certificates beside its own that a client may present. Real chains have one to four. The search
/// for a path goes through their orders: with a hundred of them one handshake took a core 14 s.
pub const PRESENTED_MAX: usize = 10;

/// Largest CRL file that is read, in bytes. The largest public CRLs are about 100 MB in DER; ten
/// million entries with reasons are about 520 MB. A single PEM block ends at 256 MiB, where the PEM
/// reader does: larger lists are kept in DER.
pub const MAX_CRL_FILE: u64 = 768 * 1024 * 1024;

/// Longest validity that `adit certs` signs, in days: a hundred years, so that date arithmetic
/// stays far from the year 9999 where the encoding of RFC 5280 section 4.1.2.5 ends.
pub const MAX_VALIDITY_DAYS: u32 = 36_525;

// --- table and tls: identity, revocation ---

/// Longest name (device, user or app, in bytes) that is read from a certificate or the device
/// registry. X.520 bounds a common name to 64 characters and DNS a host name to 253 octets; URIs of
/// identity schemes are as short. What is longer would only swell every audit line.
pub const MAX_IDENTITY_NAME_BYTES: usize = 256;

/// Longest text of a `Name` in a log or a list, in bytes. Real ones have 40 to 150.
pub const DISTINGUISHED_NAME_MAX: usize = 256;

/// Longest cause of a rejected certificate in the audit log, in bytes: two names and a sentence.
pub const REJECTION_DETAIL_MAX: usize = 640;

/// Parts of the device registry: a change copies the parts that it is about, and a pointer for each
/// other. At 5 million devices a part holds 1220, about 36 KB.
pub const DEVICE_SHARDS: usize = 4096;

/// Most devices in the registry: four times the largest fleet that is planned for. At 30 to 40
/// bytes each below 1 GB.
pub const DEVICES_MAX: usize = 20_000_000;

/// Longest line of a text that names devices, in bytes: two names at their bound, each byte
/// escaped, and room.
pub const DEVICE_LINE_MAX: usize = 4096;

/// Wrong lines after which a text that names devices is not read on. A registry with more is
/// another kind of file; at about 100 bytes each they are 2 MB of messages.
pub const DEVICE_PROBLEMS_MAX: usize = 20_000;

/// Signatures that are checked in the search for a chain among the certificates of a file. webpki
/// checks as many for a path; a file with more certificates of one name is made to cost time.
pub const CHAIN_SIGNATURES_MAX: usize = 100;

/// Names of authorities that are sent in each request for a certificate, in bytes with their
/// lengths. Above, none is sent and clients choose by themselves (RFC 8446, section 4.2.4; RFC
/// 5246, section 7.4.4). The field ends at 65535, and Java's clients take no handshake message
/// above 32768 bytes; a slow link carries the names in each handshake.
pub const AUTHORITY_NAMES_BYTES_MAX: usize = 30 * 1024;

/// Certificates that are sent in a handshake, in bytes with their lengths. rustls and Go take no
/// message of 64 KiB, OpenSSL takes 100 KB; what is below is left for the header of the message.
pub const CHAIN_BYTES_MAX: usize = 65_000;

/// How far in the future, in seconds, a CRL's `thisUpdate` may lie: the clocks of the CA and of the
/// node differ.
pub const CRL_CLOCK_SKEW_SECONDS: u64 = 300;

/// Days before its end at which a certificate is first warned about: time enough for an authority
/// that takes weeks.
pub const EXPIRY_NOTICE_DAYS: i64 = 60;

/// Days before its end at which the warning says that it is urgent.
pub const EXPIRY_URGENT_DAYS: i64 = 30;

/// Days before its end at which somebody must act now.
pub const EXPIRY_CRITICAL_DAYS: i64 = 7;

/// The part of a CRL's life, as a divisor, in which its end is announced. Authorities publish the
/// next list while a tenth to a half of the life of the last is left.
pub const CRL_ENDING_PART: u64 = 10;

/// Days before its end at which the successor of a self-signed server certificate is made: the time
/// that there is to give it to all devices.
pub const SELF_SIGNED_NEXT_DAYS: i64 = EXPIRY_NOTICE_DAYS;

/// How soon a running node looks again at its self-signed certificates while the one that it serves
/// is not valid: a clock that was set wants another one, or a new one.
pub const SELF_SIGNED_RETRY: Duration = Duration::from_secs(5);

/// How often a running node looks whether its self-signed certificate needs a successor.
pub const SELF_SIGNED_POLL: Duration = Duration::from_secs(24 * 60 * 60);

/// Most additional server certificates. Each is looked at in each handshake; more than a few names
/// belong into one certificate.
pub const ADDITIONAL_CERTIFICATES_MAX: usize = 32;

/// Ends of server certificates that are remembered, so that sessions that began under one end with
/// it. With a new certificate each day for a year and others beside it there are fewer; each is 8
/// bytes.
pub const CERTIFICATE_ENDS_MAX: usize = 1024;

/// How often the control core looks which server certificate is served, to say so in the log. The
/// change itself needs no look.
pub const CERTIFICATE_POLL: Duration = Duration::from_secs(1);

/// Longest validity that Apple's systems accept in a certificate issued after 2019-07-01
/// (HT210176), in days.
pub const APPLE_VALIDITY_DAYS: i64 = 825;

/// The same for one issued after 2020-09-01 by a root that those systems come with (HT211025), in
/// days.
pub const APPLE_PUBLIC_VALIDITY_DAYS: i64 = 398;

const _: () = assert!(EXPIRY_CRITICAL_DAYS < EXPIRY_URGENT_DAYS);
const _: () = assert!(EXPIRY_URGENT_DAYS < EXPIRY_NOTICE_DAYS);
const _: () = assert!(APPLE_PUBLIC_VALIDITY_DAYS < APPLE_VALIDITY_DAYS);
