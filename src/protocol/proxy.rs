//! The header with which a proxy tells whose connection it passes on, versions 1 and 2.
//!
//! **Owns:** recognising and decoding it, from as few bytes as have arrived.
//! **Does not own:** which proxies are believed, and what an address is good for (`session`).
//!
//! ```text
//!  1   "PROXY " ( "TCP4 " | "TCP6 " ) SOURCE " " DESTINATION " " PORT " " PORT CR LF     107 bytes at most
//!      "PROXY UNKNOWN" anything CR LF
//!  2   12 bytes signature │ version 2, command │ family, transport │ length, 2 bytes │ addresses │ TLVs
//! ```
//!
//! **Invariants:** a header is judged as soon as its bytes suffice, so that a peer that speaks something
//! else is refused by its first wrong byte; nothing is allocated; bytes behind the header are not touched.
//!
//! Source: "The PROXY protocol, Versions 1 & 2", sections 2.1 and 2.2 (haproxy.org,
//! `doc/proxy-protocol.txt`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of version 1 begins with.
const SIGNATURE_1: &[u8] = b"PROXY ";
/// What a header of version 2 begins with.
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, in bytes, with its line end.
const LINE_BYTES_MAX: usize = 107;
/// Signature, command, family and length of version 2, in bytes.
const HEADER_2_BYTES: usize = 16;
/// The longest header of version 2 that is accepted, in bytes. Addresses need 232 bytes at most; the rest is
/// room for what proxies say beyond them. Those that pass on certificates need more, and are not for us.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Two numbers in version 2: the command.
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy's own, such as a look at whether we are alive.
    Local,
    /// A client's, of which the proxy tells no address that could be used: not known, or a Unix socket.
    Unknown,
    /// A client's.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// Where the client has connected to.
        destination: SocketAddr,
    },
}

/// Why the bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// They begin with something else.
    NoHeader,
    /// They begin like one and go on otherwise; what is wrong.
    Malformed(&'static str),
    /// It would be longer than is accepted.
    TooLong,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("expected a PROXY protocol header"),
            Self::Malformed(what) => write!(f, "invalid PROXY protocol header: {what}"),
            Self::TooLong => f.write_str("the PROXY protocol header is too long"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// True if `input` may be the beginning of a header. No packet of a client and no record of TLS begins so.
pub fn may_be_proxy_header(input: &[u8]) -> bool {
    begins(input, SIGNATURE_1) || begins(input, SIGNATURE_2)
}

/// Decodes the header at the start of `input`, the bytes received so far.
///
/// Returns it with the number of its bytes, or `Ok(None)` when more are needed.
///
/// # Errors
///
/// [`ProxyError`]; nothing that follows can be trusted.
pub fn parse_proxy_header(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    if begins(input, SIGNATURE_2) {
        return binary(input);
    }
    if begins(input, SIGNATURE_1) {
        return line(input);
    }
    Err(ProxyError::NoHeader)
}

/// True if one of the two begins with the other.
fn begins(input: &[u8], signature: &[u8]) -> bool {
    let common = input.len().min(signature.len());
    input[..common] == signature[..common]
}

// ---- version 1 --------------------------------------------------------------------------------

fn line(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let seen = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if input.len() >= LINE_BYTES_MAX {
            Err(ProxyError::TooLong)
        } else {
            Ok(None)
        };
    };
    let malformed = || ProxyError::Malformed("line");
    let text = seen[..end].strip_suffix(b"\r").ok_or_else(malformed)?;
    let text = str::from_utf8(text).map_err(|_| malformed())?;
    let rest = text.strip_prefix("PROXY ").ok_or_else(malformed)?;
    let header = if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        ProxyHeader::Unknown
    } else {
        addresses_of_line(rest).ok_or(ProxyError::Malformed("addresses"))?
    };
    Ok(Some((header, end + 1)))
}

fn addresses_of_line(text: &str) -> Option<ProxyHeader> {
    let mut words = text.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse().map(IpAddr::V4).ok(),
            "TCP6" => word.parse().map(IpAddr::V6).ok(),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then_some(ProxyHeader::Tcp {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// A port without signs and leading zeros.
fn port(word: &str) -> Option<u16> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = is_number && (word == "0" || !word.starts_with('0'));
    is_canonical.then(|| word.parse().ok()).flatten()
}

// ---- version 2 --------------------------------------------------------------------------------

fn binary(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let Some(&version_and_command) = input.get(12) else {
        return Ok(None);
    };
    let command = version_and_command & 0xf;
    if version_and_command >> 4 != 2 {
        return Err(ProxyError::Malformed("version"));
    }
    if command != LOCAL && command != PROXY {
        return Err(ProxyError::Malformed("command"));
    }
    let (Some(&family), Some(length)) = (input.get(13), input.get(14..HEADER_2_BYTES)) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let end = HEADER_2_BYTES + length;
    if end > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = input.get(HEADER_2_BYTES..end) else {
        return Ok(None);
    };
    // What else stands in the header of a connection of the proxy's own is to be passed over.
    let header = if command == LOCAL {
        ProxyHeader::Local
    } else {
        addresses_of_body(family, body)?
    };
    Ok(Some((header, end)))
}

fn addresses_of_body(family: u8, body: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let short = ProxyError::Malformed("length");
    let (header, rest) = match (family >> 4, family & 0xf) {
        (0, 0..=2) => (ProxyHeader::Unknown, body),
        (1, 1) => {
            let (head, rest) = body.split_first_chunk::<12>().ok_or(short)?;
            let ip = |at: usize| {
                IpAddr::V4(Ipv4Addr::new(
                    head[at],
                    head[at + 1],
                    head[at + 2],
                    head[at + 3],
                ))
            };
            (
                tcp(ip(0), ip(4), [head[8], head[9], head[10], head[11]]),
                rest,
            )
        }
        (2, 1) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
            let ip = |bytes: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*bytes));
            (tcp(ip(source), ip(destination), *ports), rest)
        }
        (3, 1 | 2) => (ProxyHeader::Unknown, body.get(216..).ok_or(short)?),
        (1 | 2, 2) => return Err(ProxyError::Malformed("datagrams")),
        _ => return Err(ProxyError::Malformed("family")),
    };
    check_tlvs(family, rest)?;
    Ok(header)
}

fn tcp(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> ProxyHeader {
    let [s0, s1, d0, d1] = ports;
    ProxyHeader::Tcp {
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    }
}

/// Passes over what is said beyond the addresses: type, length in two bytes, value. An unspecified family
/// may have anything.
fn check_tlvs(family: u8, mut rest: &[u8]) -> Result<(), ProxyError> {
    if family >> 4 == 0 {
        return Ok(());
    }
    let wrong = ProxyError::Malformed("extensions");
    while !rest.is_empty() {
        let ([_, l0, l1], value) = rest.split_first_chunk().ok_or(wrong)?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        rest = value.get(length..).ok_or(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_of(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Tcp {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[0x20 | command, family], &length, body].concat()
    }

    const V4: &[u8] = &[10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0x19, 0x20];

    /// Whole headers are read the same in any pieces and with anything behind them.
    fn assert_reads(bytes: &[u8], expected: ProxyHeader) {
        for cut in 0..bytes.len() {
            let shown = bytes[..cut].escape_ascii();
            assert_eq!(parse_proxy_header(&bytes[..cut]), Ok(None), "{shown}");
            assert!(may_be_proxy_header(&bytes[..cut]), "{shown}");
        }
        for behind in [&b""[..], b"\0", b"PROXY ", SIGNATURE_2] {
            let input = [bytes, behind].concat();
            let read = Ok(Some((expected, bytes.len())));
            assert_eq!(parse_proxy_header(&input), read, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn lines_are_read() {
        let v4 = tcp_of("192.0.2.1:56324", "198.51.100.7:6432");
        assert_reads(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 6432\r\n", v4);
        let v6 = tcp_of("[2001:db8::1]:0", "[::1]:65535");
        assert_reads(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", v6);
        assert_reads(b"PROXY UNKNOWN\r\n", ProxyHeader::Unknown);
        let long = [&b"PROXY UNKNOWN "[..], &[b'f'; 91], b"\r\n"].concat();
        assert_eq!(long.len(), 107);
        assert_reads(&long, ProxyHeader::Unknown);
    }

    #[test]
    fn lines_that_are_not_exact_are_refused() {
        for text in [
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            let read = parse_proxy_header(text.as_bytes());
            assert!(
                matches!(read, Err(ProxyError::Malformed(_))),
                "{text:?} {read:?}"
            );
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'f'; 93]].concat();
        assert_eq!(parse_proxy_header(&endless), Err(ProxyError::TooLong));
        assert_eq!(parse_proxy_header(&endless[..106]), Ok(None));
    }

    #[test]
    fn binary_headers_are_read() {
        let v4 = tcp_of("10.0.0.1:8080", "10.0.0.2:6432");
        assert_reads(&version_2(PROXY, 0x11, V4), v4);
        let tlvs = [V4, &[3, 0, 4, 1, 2, 3, 4], &[4, 0, 0], &[0xee, 0, 1, 9]].concat();
        assert_reads(&version_2(PROXY, 0x11, &tlvs), v4);
        let v6 = [[0x20; 16], [0x30; 16]].concat();
        let v6 = [&v6[..], &[0, 1, 0, 2]].concat();
        let expected = tcp_of(
            "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
            "[3030:3030:3030:3030:3030:3030:3030:3030]:2",
        );
        assert_reads(&version_2(PROXY, 0x21, &v6), expected);
        assert_reads(&version_2(PROXY, 0x31, &[7; 216]), ProxyHeader::Unknown);
        assert_reads(&version_2(PROXY, 0x00, b"any"), ProxyHeader::Unknown);
        assert_reads(&version_2(LOCAL, 0x00, b""), ProxyHeader::Local);
        assert_reads(&version_2(LOCAL, 0x11, b"?"), ProxyHeader::Local);
    }

    #[test]
    fn binary_headers_that_are_not_exact_are_refused() {
        let malformed = |bytes: &[u8]| match parse_proxy_header(bytes) {
            Err(ProxyError::Malformed(what)) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(malformed(&[SIGNATURE_2, &[0x11]].concat()), "version");
        assert_eq!(malformed(&[SIGNATURE_2, &[0x22]].concat()), "command");
        for (family, body, what) in [
            (0x11, &V4[..11], "length"),
            (0x21, &[0; 35][..], "length"),
            (0x31, &[0; 215], "length"),
            (0x12, V4, "datagrams"),
            (0x41, V4, "family"),
            (0x13, V4, "family"),
            (0x11, &[V4, &[4]].concat(), "extensions"),
            (0x11, &[V4, &[4, 0, 2, 0]].concat(), "extensions"),
        ] {
            assert_eq!(
                malformed(&version_2(PROXY, family, body)),
                what,
                "{family:x}"
            );
        }
        let long = [SIGNATURE_2, &[0x21, 0x11, 0x0f, 0xf1]].concat();
        assert_eq!(parse_proxy_header(&long), Err(ProxyError::TooLong));
    }

    #[test]
    fn nothing_else_is_taken_for_a_header() {
        for bytes in [
            &[0_u8, 0, 0, 8][..],
            &[0x16, 3, 1],
            b"GET ",
            b"PROXX",
            b"\r\n\r\n\r",
        ] {
            assert_eq!(parse_proxy_header(bytes), Err(ProxyError::NoHeader));
            assert!(!may_be_proxy_header(bytes));
        }
    }
}
