//! The few fields of a certificate that rustls keeps to itself.
//!
//! **Owns:** finding them in DER: names, validity, the algorithm of the signature.
//! **Does not own:** whether a certificate is to be trusted (`verify`).
//!
//! **Invariant:** bytes that are no certificate give `None`.
//!
//! Source: RFC 5280, ITU-T X.690; RFC 5929 section 4.1 for the hash.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
/// `[0]`, `[3]`: version and extensions of a certificate.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.2.840.113549.1.1, the signatures of PKCS#1; the next byte is the algorithm.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3, ECDSA with a hash of SHA-2.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// 1.2.840.10045.4.1, ECDSA with SHA-1.
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
/// 2.16.840.1.101.3.4.2, the hashes of SHA-2.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// Values one after the other.
#[derive(Clone, Copy)]
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// Tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return None;
            }
            let (bytes, rest) = rest.split_at_checked(count)?;
            let len = bytes
                .iter()
                .fold(0_usize, |len, &byte| len << 8 | usize::from(byte));
            (len, rest)
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next value, which must have this tag.
    fn take(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == expected).then_some(content)
    }
}

/// What of a certificate is used here.
pub(super) struct Certificate<'a> {
    /// From when on it is good, as 14 digits of UTC.
    pub(super) not_before: String,
    /// Until when it is good, as 14 digits of UTC.
    pub(super) not_after: String,
    /// It names hosts in an extension.
    pub(super) has_alt_names: bool,
    subject: &'a [u8],
    /// The content of the signature's `AlgorithmIdentifier`.
    signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut whole = Values(Values(der).take(SEQUENCE)?);
        let mut body = Values(whole.take(SEQUENCE)?);
        let signature = whole.take(SEQUENCE)?;
        let (mut tag, _) = body.next()?;
        if tag == CONTEXT_0 {
            // The serial number.
            (tag, _) = body.next()?;
        }
        if tag != 0x02 {
            return None;
        }
        body.take(SEQUENCE)?;
        let _issuer = body.take(SEQUENCE)?;
        let mut validity = Values(body.take(SEQUENCE)?);
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let subject = body.take(SEQUENCE)?;
        let mut has_alt_names = false;
        while let Some((tag, content)) = body.next() {
            if tag == CONTEXT_3 {
                let mut extensions = Values(Values(content).take(SEQUENCE)?);
                while let Some((_, extension)) = extensions.next() {
                    has_alt_names |= Values(extension).take(OID)? == SUBJECT_ALT_NAME;
                }
            }
        }
        Some(Self {
            not_before,
            not_after,
            has_alt_names,
            subject,
            signature,
        })
    }

    /// The last common name of the subject, which is the most specific one.
    pub(super) fn common_name(&self) -> Option<String> {
        let mut found = None;
        let mut sets = Values(self.subject);
        while let Some((tag, set)) = sets.next() {
            let mut attributes = Values(set);
            while let (SET, Some((_, attribute))) = (tag, attributes.next()) {
                let mut attribute = Values(attribute);
                if attribute.take(OID)? == COMMON_NAME {
                    found = Some(text(attribute.next()?)?);
                }
            }
        }
        found
    }

    /// True if the certificate is not good at `now`, seconds since 1970.
    pub(super) fn is_out_of_time(&self, now: u64) -> bool {
        let now = digits(now);
        now < self.not_before || now > self.not_after
    }
}

fn text((tag, content): (u8, &[u8])) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING | TELETEX_STRING => {
            let text = str::from_utf8(content).ok()?;
            // A name with a NUL is somebody who wants to be taken for somebody else.
            (!text.contains('\0')).then(|| text.to_owned())
        }
        _ => None,
    }
}

/// A time as 14 digits of UTC: they compare as times do.
fn time((tag, content): (u8, &[u8])) -> Option<String> {
    let text = str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match tag {
        // RFC 5280: two digits below 50 are of this century.
        UTC_TIME if text.as_bytes().first()? < &b'5' => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    (text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// Seconds since 1970 as 14 digits of UTC.
fn digits(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days of the Gregorian calendar in eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// The common name of a certificate's subject.
pub fn common_name(der: &[u8]) -> Option<String> {
    Certificate::parse(der)?.common_name()
}

/// The hash of a certificate that binds a login to the connection (`tls-server-end-point`). None if the
/// certificate's signature names no hash, as with Ed25519.
pub fn end_point_hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::parse(der)?;
    let mut signature = Values(certificate.signature);
    let oid = signature.take(OID)?;
    let bits = match (oid.split_last()?, oid) {
        ((13, prefix), _) if prefix == PKCS1 => 512,
        ((12, prefix), _) if prefix == PKCS1 => 384,
        // MD5 and SHA-1 are replaced by SHA-256.
        ((4 | 5 | 11, prefix), _) if prefix == PKCS1 => 256,
        ((10, prefix), _) if prefix == PKCS1 => pss_bits(signature)?,
        ((2, prefix), _) if prefix == ECDSA_SHA2 => 256,
        ((3, prefix), _) if prefix == ECDSA_SHA2 => 384,
        ((4, prefix), _) if prefix == ECDSA_SHA2 => 512,
        (_, oid) if oid == ECDSA_SHA1 => 256,
        _ => return None,
    };
    Some(match bits {
        512 => Sha512::digest(der).to_vec(),
        384 => Sha384::digest(der).to_vec(),
        _ => Sha256::digest(der).to_vec(),
    })
}

/// The hash in the parameters of RSASSA-PSS; SHA-1 if there is none.
fn pss_bits(mut parameters: Values<'_>) -> Option<u32> {
    let mut fields = Values(parameters.take(SEQUENCE)?);
    let Some((CONTEXT_0, hash)) = fields.next() else {
        return Some(256);
    };
    let oid = Values(Values(hash).take(SEQUENCE)?).take(OID)?;
    match oid.split_last()? {
        (1, prefix) if prefix == SHA2 => Some(256),
        (2, prefix) if prefix == SHA2 => Some(384),
        (3, prefix) if prefix == SHA2 => Some(512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str, hosts: &[&str]) -> Vec<u8> {
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "not this");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2051, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_times_and_hash_are_found() {
        let der = certificate("Ünser Server", &["db.example"]);
        let parsed = Certificate::parse(&der).unwrap();
        assert_eq!(parsed.common_name().unwrap(), "Ünser Server");
        assert!(parsed.has_alt_names);
        assert_eq!(parsed.not_before, "20010203000000");
        assert_eq!(parsed.not_after, "20511231000000");
        assert!(!parsed.is_out_of_time(1_700_000_000));
        assert!(parsed.is_out_of_time(0));
        assert_eq!(end_point_hash(&der).unwrap(), Sha256::digest(&der).to_vec());
        let alone = certificate("x", &[]);
        assert!(!Certificate::parse(&alone).unwrap().has_alt_names);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(digits(0), "19700101000000");
        assert_eq!(digits(951_827_696), "20000229123456");
        assert_eq!(digits(1_709_251_199), "20240229235959");
    }

    #[test]
    fn cut_and_changed_certificates_give_nothing_or_something_but_no_panic() {
        let der = certificate("x", &["a.b"]);
        for len in 0..der.len() {
            assert!(Certificate::parse(&der[..len]).is_none());
            let mut changed = der.clone();
            changed[len] ^= 0xff;
            let _ = (common_name(&changed), end_point_hash(&changed));
        }
    }
}
