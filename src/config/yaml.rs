//! YAML text to the same tables TOML gives.
//!
//! **Owns:** the meaning of plain scalars (core schema), aliases, nulls and keys.
//! **Does not own:** the YAML grammar (`saphyr-parser`), merging files.
//! **Invariants:** plain words such as `yes`, `on`, `0123` and `1_000` stay strings, so an unquoted
//! password is not mistaken for something else; errors carry a line and never the text of it;
//! nesting and size after alias expansion are bounded.
//!
//! Source: YAML 1.2 core schema, with the rule that digits after a leading zero are a string.

use std::collections::HashMap;
use std::num::ParseIntError;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use toml::{Table, Value};

/// Nested collections beyond this are refused; composing recurses.
const DEPTH_MAX: usize = 64;
/// Values in one document, each use of an alias counted anew: bounds "a million laughs".
const VALUES_MAX: usize = 1_000_000;
/// The prefix of the tags YAML itself defines.
const CORE_TAG: &str = "tag:yaml.org,2002:";

/// Why a text is not a usable YAML document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// Reads one document. An empty text gives an empty table.
///
/// Entries whose value is null are left out, as if the key were absent. Keys become strings.
pub(super) fn parse(text: &str) -> Result<Table, YamlError> {
    let mut composer = Composer {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        values_count: 0,
    };
    let mut root = None;
    loop {
        let (event, span) = composer.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if root.is_some() => {
                return Err(fault(&span, "more than one YAML document in the file"));
            }
            event => root = Some((composer.compose(event, &span, 0)?, span)),
        }
    }
    match root {
        None | Some((None, _)) => Ok(Table::new()),
        Some((Some(Value::Table(table)), _)) => Ok(table),
        Some((Some(_), span)) => Err(fault(&span, "expected a mapping at the top level")),
    }
}

fn fault(span: &Span, reason: impl Into<String>) -> YamlError {
    YamlError {
        line: span.start.line(),
        reason: reason.into(),
    }
}

struct Composer<'a> {
    events: Parser<'a, StrInput<'a>>,
    /// Finished anchored values. An alias inside its own anchor is not in here yet.
    anchors: HashMap<usize, (Option<Value>, usize)>,
    values_count: usize,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.events.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(YamlError {
                line: error.marker().line(),
                reason: format!("invalid YAML: {}", error.info()),
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, values_count: usize, span: &Span) -> Result<(), YamlError> {
        self.values_count = self.values_count.saturating_add(values_count);
        if self.values_count > VALUES_MAX {
            return Err(fault(span, "too many values in the YAML document"));
        }
        Ok(())
    }

    /// Builds the value that `event` begins; `None` is null.
    fn compose(
        &mut self,
        event: Event<'a>,
        span: &Span,
        depth: usize,
    ) -> Result<Option<Value>, YamlError> {
        if depth > DEPTH_MAX {
            return Err(fault(span, "YAML collections are nested too deeply"));
        }
        let before = self.values_count;
        self.count(1, span)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (scalar(&text, style, tag.as_deref(), span)?, anchor)
            }
            Event::SequenceStart(anchor, _) => (Some(self.sequence(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Some(self.mapping(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some((value, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(fault(span, "an alias refers to a value that contains it"));
                };
                self.count(size, span)?;
                (value, 0)
            }
            _ => return Err(fault(span, "invalid YAML: unexpected end")),
        };
        if anchor > 0 {
            self.anchors
                .insert(anchor, (value.clone(), self.values_count - before));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.extend(self.compose(event, &span, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut table = Table::new();
        let mut nulls = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Table(table)),
                // A pool may be called `7` or `true`: the text of the key is its name.
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(fault(&span, "a YAML key must be a single word or string")),
            };
            if table.contains_key(&key) || nulls.contains(&key) {
                return Err(fault(&span, format!("duplicate key '{key}'")));
            }
            let (event, span) = self.next()?;
            match self.compose(event, &span, depth + 1)? {
                Some(value) => drop(table.insert(key, value)),
                None => nulls.push(key),
            }
        }
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    span: &Span,
) -> Result<Option<Value>, YamlError> {
    let string = || Ok(Some(Value::String(text.to_owned())));
    let resolved = resolve(text, span);
    match tag {
        None if style == ScalarStyle::Plain => resolved,
        None => string(),
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => string(),
        Some(tag) if tag.handle == CORE_TAG && tag.suffix == "str" => string(),
        Some(tag) if tag.handle == CORE_TAG => {
            let value = resolved?;
            let found = match &value {
                None => "null",
                Some(Value::Boolean(_)) => "bool",
                Some(Value::Integer(_)) => "int",
                Some(Value::Float(_)) => "float",
                Some(_) => "str",
            };
            if found == tag.suffix {
                return Ok(value);
            }
            Err(fault(
                span,
                format!(
                    "the value does not have the type of its tag !!{}",
                    tag.suffix
                ),
            ))
        }
        Some(_) => Err(fault(span, "YAML tags are not supported here")),
    }
}

/// The core schema. `None` inside `Ok` is null.
fn resolve(text: &str, span: &Span) -> Result<Option<Value>, YamlError> {
    Ok(Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(None),
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        _ => match integer(text) {
            Some(Ok(value)) => Value::Integer(value),
            Some(Err(_)) => return Err(fault(span, "integer out of range")),
            None => float(text).map_or_else(|| Value::String(text.to_owned()), Value::Float),
        },
    }))
}

/// `None`: not an integer. An error: an integer that does not fit.
fn integer(text: &str) -> Option<Result<i64, ParseIntError>> {
    let (sign, digits) = match text.as_bytes() {
        [b'+', ..] => ("", &text[1..]),
        [b'-', ..] => ("-", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if has_leading_zero(digits) => return None,
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(i64::from_str_radix(&format!("{sign}{digits}"), radix))
}

fn float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    // `parse` also knows words such as `infinity`, which are strings in YAML.
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !numeric || has_leading_zero(digits) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// `0123` looks like a number and is more likely a word, such as a postal code or a password.
fn has_leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        parse(&format!("a: {text}")).unwrap().remove("a").unwrap()
    }

    fn reason(text: &str) -> (usize, String) {
        let error = parse(text).unwrap_err();
        (error.line, error.reason)
    }

    #[test]
    fn words_and_doubtful_numbers_stay_strings() {
        let words = [
            "yes", "on", "y", "off", "0123", "00", "1_000", "12:30", "5s", "nan", "inf",
        ];
        for word in words
            .into_iter()
            .chain(["infinity", "2001-01-01", "-0123", "md5ab", "0xZ"])
        {
            assert_eq!(value(word), Value::String(word.to_owned()), "{word}");
        }
        for quoted in ["'5'", "\"5\"", "!!str 5", "! 5"] {
            assert_eq!(value(quoted), Value::String("5".to_owned()), "{quoted}");
        }
    }

    #[test]
    fn plain_numbers_and_booleans_have_their_types() {
        for (text, number) in [("5", 5), ("+5", 5), ("-5", -5), ("0x1F", 31), ("0o17", 15)] {
            assert_eq!(value(text), Value::Integer(number), "{text}");
        }
        assert_eq!(value("-9223372036854775808"), Value::Integer(i64::MIN));
        assert_eq!(value("0"), Value::Integer(0));
        assert_eq!(value("1e3"), Value::Float(1000.0));
        assert_eq!(value(".5"), Value::Float(0.5));
        assert_eq!(value("True"), Value::Boolean(true));
        assert_eq!(value("!!int 7"), Value::Integer(7));
    }

    #[test]
    fn nulls_vanish_and_keys_become_strings() {
        let table = parse("a: null\nb: ~\nc:\n0: {x: 1}\ntrue: 2\nl: [1, null, 2]").unwrap();
        let expected = toml::toml! {
            "0" = { x = 1 }
            true = 2
            l = [1, 2]
        };
        assert_eq!(table, expected);
        assert_eq!(parse("").unwrap(), Table::new());
        assert_eq!(parse("# only a comment").unwrap(), Table::new());
    }

    #[test]
    fn aliases_repeat_their_value() {
        let table = parse("a: &x {b: 1}\nc: *x").unwrap();
        assert_eq!(table["a"], table["c"]);
    }

    #[test]
    fn faults_name_the_line_and_not_its_text() {
        for text in [
            "a: 1\nb: sec: ret",
            "a: 1\nb: @secret",
            "a: 1\nb: \"secret",
            "a: 1\nb: !x secret",
        ] {
            let (line, reason) = reason(text);
            assert_eq!(line, 2, "{text}");
            assert!(!reason.contains("sec"), "{reason}");
        }
        assert_eq!(
            reason("a: 1\nb: 2\na: 3"),
            (3, "duplicate key 'a'".to_owned())
        );
        assert_eq!(
            reason("a: 1\n---\nb: 2").1,
            "more than one YAML document in the file"
        );
        assert_eq!(reason("- 1").1, "expected a mapping at the top level");
        assert_eq!(reason("a: 18446744073709551615").1, "integer out of range");
        assert_eq!(
            reason("a: !!int x").1,
            "the value does not have the type of its tag !!int"
        );
        assert_eq!(
            reason("[a]: 1").1,
            "a YAML key must be a single word or string"
        );
        assert_eq!(
            reason("a: &x [*x]").1,
            "an alias refers to a value that contains it"
        );
    }

    #[test]
    fn depth_and_expansion_are_bounded() {
        let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(reason(&deep).1, "YAML collections are nested too deeply");
        let line = |level: usize| {
            let previous = vec![format!("*l{}", level - 1); 10].join(", ");
            format!("l{level}: &l{level} [{previous}]\n")
        };
        let laughs: String = std::iter::once("l0: &l0 [x]\n".to_owned())
            .chain((1..12).map(line))
            .collect();
        assert_eq!(reason(&laughs).1, "too many values in the YAML document");
    }
}
