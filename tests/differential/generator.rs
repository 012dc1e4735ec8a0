//! Scripts from a seed.
//!
//! Owns: what is likely, so that most of what is said makes sense and some of it does not.
//! Does not own: the texts (`texts`), what is left out of them (`gaps`).
//! Invariants: a script depends on its seed only; each step ends so that the answer to it ends.
//!
//! Source: none.

use std::collections::BTreeMap;

use crate::dice::Dice;
use crate::script::{Message, Script, Step, When};
use crate::texts::{self, Text};

/// All names of statements that a script may use.
pub(crate) const ALL_NAMES: [&str; 7] = ["a", "b", "c", "d", UNKNOWN, FOREIGN, ""];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const UNKNOWN: &str = "unknown";
/// Like the pooler's own names.
const FOREIGN: &str = "PGD_0123456789abcdef0123456789abcdef";
const PORTALS: [&str; 6] = ["", "", "", "", "p", "q"];

struct Author {
    dice: Dice,
    /// What each statement was parsed from last, as far as the author knows.
    parsed: BTreeMap<String, Text>,
}

/// The script of a seed.
pub(crate) fn script(seed: u64) -> Script {
    let mut author = Author {
        dice: Dice::new(seed),
        parsed: BTreeMap::new(),
    };
    let count = author.dice.biased(2, 14);
    let mut script: Script = (0..count).flat_map(|_| author.steps()).collect();
    if author.dice.one_in(12) {
        let last = author.last();
        script.push(last);
    }
    script
}

impl Author {
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.dice.between(0, all.len() - 1)]
    }

    fn step(&mut self, when: When, messages: Vec<Message>) -> Step {
        let cuts = if self.dice.one_in(6) {
            let count = self.dice.biased(1, 4);
            (0..count).map(|_| self.dice.between(0, 400)).collect()
        } else {
            Vec::new()
        };
        Step {
            when,
            messages,
            cuts,
        }
    }

    /// What comes next: mostly one step.
    fn steps(&mut self) -> Script {
        match self.dice.between(0, 29) {
            0..6 => {
                let query = self.query();
                vec![self.step(When::Ready, vec![query])]
            }
            6..9 => {
                let (text, _) = self.of(texts::TRANSACTIONS);
                vec![self.step(When::Ready, vec![Message::query(text)])]
            }
            9..11 => {
                let all = if self.dice.one_in(2) {
                    texts::SETTINGS
                } else {
                    texts::SHOWS
                };
                let (text, _) = self.of(all);
                vec![self.step(When::Ready, vec![Message::query(text)])]
            }
            11..13 => self.session_step(),
            13..15 => self.copying(),
            15 => {
                let call = self.function_call();
                vec![self.step(When::Ready, vec![call])]
            }
            16 => {
                let stray = self.copy_messages();
                vec![self.step(When::Always, stray)]
            }
            17..22 => vec![self.pipeline()],
            _ => {
                let batch = self.batch();
                vec![self.step(When::Ready, batch)]
            }
        }
    }

    fn query(&mut self) -> Message {
        let all = match self.dice.between(0, 9) {
            0..2 => texts::READS,
            2 => texts::WRITES,
            3 => texts::ERRORS,
            4 => texts::FORGETTING,
            5 => texts::DEFINITIONS,
            _ => texts::SEVERAL,
        };
        Message::query(self.of(all).0)
    }

    /// What uses the session stands alone: it is gone for others at the end of a transaction.
    fn session_step(&mut self) -> Script {
        let mut steps = Vec::new();
        for _ in 0..self.dice.biased(1, 5) {
            let text = self.of(texts::SESSION);
            let messages = if self.dice.one_in(3) {
                self.run("", text)
            } else {
                vec![Message::query(text.0)]
            };
            steps.push(self.step(When::InTransaction, messages));
        }
        steps
    }

    /// Parse to Sync of one text.
    fn run(&mut self, name: &str, text: Text) -> Vec<Message> {
        let mut messages = vec![self.parse(name, text)];
        messages.push(self.bind(name, ""));
        messages.push(Message::Execute {
            portal: String::new(),
            limit: 0,
        });
        messages.push(Message::Sync);
        messages
    }

    /// A COPY and what it reads.
    fn copying(&mut self) -> Script {
        let text = self.of(texts::COPIES);
        let first = if self.dice.one_in(2) {
            vec![Message::query(text.0)]
        } else {
            let mut messages = self.run("", text);
            if self.dice.one_in(2) {
                messages.pop();
                messages.push(Message::Flush);
            }
            messages
        };
        let first = self.step(When::Ready, first);
        let second = self.copy_messages();
        let second = self.step(When::Always, second);
        if self.dice.one_in(3) {
            // All in one write.
            let messages = [first.messages, second.messages].concat();
            return vec![self.step(When::Ready, messages)];
        }
        vec![first, second]
    }

    /// Data and an end, sometimes without one.
    fn copy_messages(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..self.dice.between(0, 3) {
            let text = self.of(&[
                "7\tseven\n",
                "8\teight\n9\tnine\n",
                "10\tt",
                "en\n",
                "7\tx\n",
                "\n",
            ]);
            messages.push(Message::CopyData(text.to_owned()));
            if text == "10\tt" {
                messages.push(Message::CopyData("en\n".to_owned()));
            }
            if self.dice.one_in(10) {
                messages.push(Message::Sync);
            }
        }
        match self.dice.between(0, 9) {
            0..6 => messages.push(Message::CopyDone),
            6..8 => messages.push(Message::CopyFail),
            8 => messages.extend([Message::CopyDone, Message::CopyDone]),
            _ => {}
        }
        messages.push(Message::Sync);
        messages
    }

    fn function_call(&mut self) -> Message {
        let number = |value: u32| value.to_be_bytes().to_vec();
        let (function, arguments) = match self.dice.between(0, 5) {
            0 => (154, vec![number(7), number(0)]),
            1 => (999_999, Vec::new()),
            2 => (177, vec![number(7)]),
            3 => (177, vec![vec![1, 2], number(1)]),
            _ => (177, vec![number(7), number(35)]),
        };
        Message::FunctionCall {
            function,
            arguments,
        }
    }

    /// Several batches and queries in one write.
    fn pipeline(&mut self) -> Step {
        let mut messages = Vec::new();
        for _ in 0..self.dice.between(2, 4) {
            match self.dice.between(0, 7) {
                0 => {
                    let query = self.query();
                    messages.push(query);
                }
                1 => {
                    let (text, _) = self.of(texts::TRANSACTIONS);
                    messages.push(Message::query(text));
                }
                2 if self.dice.one_in(4) => {
                    let call = self.function_call();
                    messages.push(call);
                }
                _ => {
                    let batch = self.batch();
                    messages.extend(batch);
                }
            }
        }
        self.step(When::Ready, messages)
    }

    /// Extended messages, with Sync or Flush at the end.
    fn batch(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..self.dice.biased(1, 7) {
            if self.dice.one_in(2) {
                let name = self.name();
                let (name, text) = (name.to_owned(), self.text());
                let mut run = self.run(&name, text);
                run.pop();
                // Some of it is not said, or not in this batch.
                while self.dice.one_in(6) && !run.is_empty() {
                    let at = self.dice.between(0, run.len() - 1);
                    run.remove(at);
                }
                messages.extend(run);
            } else {
                let message = self.extended();
                messages.push(message);
            }
        }
        let last = if self.dice.one_in(10) {
            Message::Flush
        } else {
            Message::Sync
        };
        messages.push(last);
        messages
    }

    fn text(&mut self) -> Text {
        let all = match self.dice.between(0, 19) {
            0..9 => texts::READS,
            9..12 => texts::WRITES,
            12..14 => texts::ERRORS,
            14..16 => texts::TRANSACTIONS,
            16 => texts::LOCAL_SETTINGS,
            17 => texts::SHOWS,
            18 => texts::FORGETTING,
            _ => texts::DEFINITIONS,
        };
        self.of(all)
    }

    fn name(&mut self) -> &'static str {
        match self.dice.between(0, 39) {
            0..18 => "",
            18 => UNKNOWN,
            19 => FOREIGN,
            _ => self.of(&NAMES),
        }
    }

    /// A message that names a statement or a portal.
    fn extended(&mut self) -> Message {
        let name = self.name().to_owned();
        let portal = self.of(&PORTALS).to_owned();
        match self.dice.between(0, 24) {
            0..4 => {
                let text = self.text();
                self.parse(&name, text)
            }
            4..9 => self.bind(&name, &portal),
            9..12 => Message::Describe { kind: b'S', name },
            12..14 => Message::Describe {
                kind: b'P',
                name: portal,
            },
            14..19 => Message::Execute {
                portal,
                limit: self.of(&[0, 0, 0, 1, 2, 1000, u32::MAX]),
            },
            19..21 => Message::Close { kind: b'S', name },
            21 => Message::Close {
                kind: b'P',
                name: portal,
            },
            22 => Message::Flush,
            23 if self.dice.one_in(3) => self.garbled(),
            _ => Message::CopyDone,
        }
    }

    fn parse(&mut self, name: &str, text: Text) -> Message {
        self.parsed.insert(name.to_owned(), text);
        let types = match self.dice.between(0, 29) {
            0 => vec![0],
            1 => vec![23],
            2 => vec![25],
            3 => vec![999_999],
            4 => vec![20, 25],
            5 => vec![0, 0, 0],
            _ => Vec::new(),
        };
        Message::Parse {
            name: name.to_owned(),
            text: text.0.to_owned(),
            types,
        }
    }

    fn bind(&mut self, statement: &str, portal: &str) -> Message {
        let kinds = self.parsed.get(statement).map_or("", |text| text.1);
        let mut values: Vec<_> = kinds.chars().map(|kind| self.value(kind)).collect();
        let mut formats = Vec::new();
        let mut results = Vec::new();
        match self.dice.between(0, 39) {
            0 => values.push(None),
            1 => drop(values.pop()),
            2 => formats = vec![7],
            3 => formats = vec![0; 3],
            4 => results = vec![0; 9],
            5 => results = vec![5],
            6..9 => results = vec![1],
            9 => results = vec![0],
            10 => results = vec![1, 0],
            11..15 if kinds.starts_with('i') => {
                formats = [1, 0][..kinds.len()].to_vec();
                values[0] = Some(self.of(&[1_u32, 2, 9]).to_be_bytes().to_vec());
            }
            15 if !values.is_empty() => {
                formats = vec![1];
                values[0] = Some(vec![1, 2, 3]);
            }
            _ => {}
        }
        Message::Bind {
            portal: portal.to_owned(),
            statement: statement.to_owned(),
            formats,
            values,
            results,
        }
    }

    fn value(&mut self, kind: char) -> Option<Vec<u8>> {
        if self.dice.one_in(12) {
            return None;
        }
        let value = match kind {
            'i' => self.of(&["0", "1", "2", "3", "-1", "x"]),
            'b' => self.of(&["\\x00ff", "bytes", ""]),
            't' => self.of(&["2024-05-06 07:08:09", "nonsense"]),
            _ => self.of(&["text", "", "žluť", "it's"]),
        };
        Some(value.as_bytes().to_vec())
    }

    fn garbled(&mut self) -> Message {
        let tag = self.of(b"PBDCE");
        let body = match self.dice.between(0, 4) {
            0 => Vec::new(),
            1 => b"a".to_vec(),
            2 => b"S".to_vec(),
            3 => b"X\0".to_vec(),
            _ => b"a\0b\0\0\0\0\x09\0".to_vec(),
        };
        Message::Garbled { tag, body }
    }

    /// A step that ends the connection.
    fn last(&mut self) -> Step {
        let mut messages = if self.dice.one_in(2) {
            self.batch()
        } else {
            Vec::new()
        };
        if self.dice.one_in(8) {
            // Requests in the midst of a COPY end it, too.
            messages.push(Message::query(texts::COPIES[0].0));
            messages.push(Message::query("select 1"));
            return self.step(When::Ready, messages);
        }
        messages.push(match self.dice.between(0, 5) {
            0..2 => Message::Terminate,
            2..4 => Message::Unknown(self.of(b"!zR\0\xff")),
            _ => Message::WrongLength {
                tag: self.of(b"QPBDECHSdcfFX"),
                length: self.of(&[0, 3, u32::MAX, 0x7fff_ffff]),
            },
        });
        self.step(When::Ready, messages)
    }
}
