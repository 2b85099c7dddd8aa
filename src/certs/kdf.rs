//! The key derivation of PKCS#12 (RFC 7292, appendix B.2).

use aws_lc_rs::digest::{Algorithm, digest};
use zeroize::Zeroizing;

/// The use of what is derived (appendix B.3).
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    InitializationVector = 2,
    Mac = 3,
}

/// Derives `length` octets from a password in UTF-16 and a salt, with `count` iterations.
pub(super) fn derive(
    algorithm: &'static Algorithm,
    purpose: Purpose,
    password: &[u8],
    salt: &[u8],
    count: u64,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let (block, step) = (algorithm.block_len, algorithm.output_len);
    let whole_blocks = |octets: &[u8]| octets.len().next_multiple_of(block);
    // The diversifier D, the salt S and the password P. As long as they get: growing would leave copies behind.
    let size = block + whole_blocks(salt) + whole_blocks(password);
    let mut input = Zeroizing::new(Vec::with_capacity(size));
    input.resize(block, purpose as u8);
    for octets in [salt, password] {
        input.extend(octets.iter().cycle().take(whole_blocks(octets)));
    }
    let mut derived = Zeroizing::new(Vec::with_capacity(length + step));
    loop {
        let mut hash = digest(algorithm, &input);
        for _ in 1..count {
            hash = digest(algorithm, hash.as_ref());
        }
        let hash = hash.as_ref();
        derived.extend_from_slice(hash);
        if derived.len() >= length {
            derived.truncate(length);
            return derived;
        }
        // To each block of S and P, as a number, the hash is added, repeated to a block, and one.
        for number in input[block..].chunks_exact_mut(block) {
            let mut carry = 1;
            for (at, octet) in number.iter_mut().enumerate().rev() {
                let sum = u16::from(*octet) + u16::from(hash[at % step]) + carry;
                *octet = sum as u8;
                carry = sum >> 8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA224, SHA256, SHA384, SHA512};

    use super::Purpose::{InitializationVector, Key, Mac};
    use super::*;

    /// Kind of the derived value, input, number of iterations; and the result.
    type Vector = (
        &'static Algorithm,
        Purpose,
        &'static str,
        u64,
        u64,
        &'static str,
    );

    /// RFC 7292 has no vectors. The first six are those that implementations have shared since the scheme was published, and
    /// all are what `openssl kdf ... PKCS12KDF` says.
    static VECTORS: [Vector; 10] = [
        (
            &SHA1,
            Key,
            "smeg",
            0x0a58_cf64_530d_823f,
            1,
            "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3",
        ),
        (
            &SHA1,
            InitializationVector,
            "smeg",
            0x0a58_cf64_530d_823f,
            1,
            "79993dfe048d3b76",
        ),
        (
            &SHA1,
            Key,
            "queeg",
            0x05de_c959_acff_72f7,
            1000,
            "ed2034e36328830ff09df1e1a07dd357185dac0d4f9eb3d4",
        ),
        (
            &SHA1,
            InitializationVector,
            "queeg",
            0x05de_c959_acff_72f7,
            1000,
            "11dedad7758d4860",
        ),
        (
            &SHA1,
            Mac,
            "smeg",
            0x3d83_c0e4_546a_c140,
            1,
            "8d967d88f6caa9d714800ab3d48051d63f73a312",
        ),
        (
            &SHA1,
            Mac,
            "queeg",
            0x2632_16fc_c2fa_b31c,
            1000,
            "5ec4c7a80df652294c3925b6489a7ab857c83476",
        ),
        (
            &SHA224,
            Mac,
            "queeg",
            0x2632_16fc_c2fa_b31c,
            2,
            "d386f385a0f5207cfe10b67139ec9b80db631052a7ea40f26baa326a",
        ),
        (
            &SHA256,
            Key,
            "queeg",
            0x2632_16fc_c2fa_b31c,
            3,
            "4df0aceb54aa58f5c549d312f4a16f3ac667677767c92b315cb4892ee11195cf88d7ab58f74681c0e0c8e04933c98f9f\
                 63363681c9a4920455b8ff7a1f2573aa42a158dc6d859dbcb44fa3e05bb97f778cde8807a5649ecb98b2b56222d03b13\
                 2963324c",
        ),
        (
            &SHA384,
            Mac,
            "queeg",
            0x2632_16fc_c2fa_b31c,
            2,
            "97152aada9536cf9a61b32f59baefe7ba148bc613e7d769cd3672f72f59c3ad58f17fbdcfbe5b48da53c1c5a6027aeda",
        ),
        (
            &SHA512,
            Mac,
            "queeg",
            0x2632_16fc_c2fa_b31c,
            3,
            "b946254f5bf4c645b3c86ebad6058345425f246e5abd515a33218394fcd74efe560e40327479027a04a09344a70294c1\
                 2fff2dbf0fd530057dd90382a7306f8b",
        ),
    ];

    #[test]
    fn derives_what_others_derive() {
        let hex = |octets: &[u8]| -> String {
            let octets = octets.iter();
            octets.map(|octet| format!("{octet:02x}")).collect()
        };
        for &(algorithm, purpose, password, salt, count, expected) in &VECTORS {
            let salt = u64::to_be_bytes(salt);
            let units = password.encode_utf16().chain([0]);
            let password: Vec<u8> = units.flat_map(u16::to_be_bytes).collect();
            let length = expected.len() / 2;
            let derived = derive(algorithm, purpose, &password, &salt, count, length);
            assert_eq!(hex(&derived), expected, "{algorithm:?} {purpose:?}");
        }
    }
}
