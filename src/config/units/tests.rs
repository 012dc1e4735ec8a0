//! Tests of the value grammar.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const TIMES: &[(&str, u64)] = &[
    ("", 1),
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("KB", 1 << 10),
    ("M", 1 << 20),
    ("MB", 1 << 20),
    ("G", 1 << 30),
    ("GB", 1 << 30),
];

fn random_case(text: &str, rng: &mut StdRng) -> String {
    let flip = |c: char| {
        if rng.random() {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        }
    };
    text.chars().map(flip).collect()
}

fn blanks(rng: &mut StdRng) -> &'static str {
    ["", " ", "  ", "\t", " \n "][rng.random_range(0..5)]
}

/// Goal: every text of the grammar gives number times factor, or an error exactly when that
/// product exceeds 64 bits. Method: random numbers of all magnitudes, suffixes, cases and blanks.
fn every_text_gives_the_product(
    suffixes: &[(&str, u64)],
    parse: impl Fn(&str) -> Result<u64, UnitError>,
) {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let number = rng.random::<u64>() >> rng.random_range(0..64);
        let (suffix, factor) = suffixes[rng.random_range(0..suffixes.len())];
        let suffix = random_case(suffix, &mut rng);
        let (a, b, c) = (blanks(&mut rng), blanks(&mut rng), blanks(&mut rng));
        let text = format!("{a}{number}{b}{suffix}{c}");
        let parsed = parse(&text).ok();
        assert_eq!(parsed, number.checked_mul(factor), "{text:?} seed={seed}");
    }
}

#[test]
fn every_time_text_gives_the_product() {
    every_text_gives_the_product(TIMES, |text| {
        ConfigDuration::parse(text).map(|value| value.0)
    });
}

#[test]
fn every_size_text_gives_the_product() {
    every_text_gives_the_product(SIZES, |text| ByteSize::parse(text).map(ByteSize::bytes));
}

#[test]
fn displayed_values_parse_to_themselves() {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..5000 {
        let step = [1, 1000, 1024, 60_000, 1 << 20, 86_400_000, 1 << 30];
        let value = rng.random_range(0..100_000) * step[rng.random_range(0..step.len())];
        let time = ConfigDuration::from_millis(value);
        assert_eq!(
            ConfigDuration::parse(&time.to_string()),
            Ok(time),
            "{value} seed={seed}"
        );
        let size = ByteSize::from_bytes(value);
        assert_eq!(
            ByteSize::parse(&size.to_string()),
            Ok(size),
            "{value} seed={seed}"
        );
    }
    assert_eq!(ConfigDuration::from_secs(180).to_string(), "3m");
    assert_eq!(ByteSize::from_bytes(1 << 20).to_string(), "1MB");
}

#[test]
fn arbitrary_text_never_panics() {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let alphabet: Vec<char> = "019 .-+eEmMsSkKbBgGdDhH\u{e9}\u{2028}\0".chars().collect();
    for _ in 0..20_000 {
        let length = rng.random_range(0..8);
        let text: String = (0..length)
            .map(|_| alphabet[rng.random_range(0..alphabet.len())])
            .collect();
        let _ = ConfigDuration::parse(&text);
        let _ = ByteSize::parse(&text);
    }
}

#[test]
fn texts_outside_the_grammar_say_which_part_is_wrong() {
    let format = |text: &str| {
        format!(
            "invalid duration format: '{text}'. Expected a number or a string with suffix \
             (ms, s, m, h, d)"
        )
    };
    for text in ["", "  ", "s", "abc", "5us", "5 minutes", "5w", "5ks"] {
        let error = ConfigDuration::parse(text).unwrap_err();
        assert_eq!(error.to_string(), format(text));
    }
    for text in [
        "1h30m",
        "1.5s",
        "-5s",
        "+5s",
        "5 5",
        "99999999999999999999",
        "5\u{b5}s",
        "0x5",
    ] {
        let error = ConfigDuration::parse(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid number in duration: '{text}'")
        );
    }
    for text in ["1T", "1KiB", "MB", "5 bytes"] {
        let error = ByteSize::parse(text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("invalid byte size format: '{text}'")),
            "{error}"
        );
    }
    assert_eq!(
        ByteSize::parse("1.5M").unwrap_err().to_string(),
        "invalid number in byte size: '1.5M'"
    );
    let overflow = format!("{}d", u64::MAX);
    let error = ConfigDuration::parse(&overflow).unwrap_err().to_string();
    assert_eq!(error, format!("duration too large: '{overflow}'"));
}

#[test]
fn numbers_are_base_units_and_floats_are_type_errors() {
    #[derive(serde::Deserialize)]
    struct Values {
        time: ConfigDuration,
        size: ByteSize,
    }
    let values: Values = toml::from_str("time = 1500\nsize = 4096").unwrap();
    assert_eq!(values.time.duration(), Duration::from_millis(1500));
    assert_eq!(values.size.bytes(), 4096);
    let reason = |text: &str| {
        toml::from_str::<Values>(text)
            .err()
            .unwrap()
            .message()
            .to_owned()
    };
    assert_eq!(reason("time = -1\nsize = 1"), "duration cannot be negative");
    assert_eq!(
        reason("time = 1\nsize = -1"),
        "byte size cannot be negative"
    );
    assert!(reason("time = 1.5\nsize = 1").starts_with("invalid type: floating point"));
}
