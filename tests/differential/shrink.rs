//! Making a script that shows a difference small.
//!
//! Owns: which smaller scripts are tried.
//! Does not own: running them (`pair`).
//! Invariants: the result shows a difference of the same kind. What others do at the same time may be
//! part of it, so each smaller script is tried several times before it counts as clean.
//!
//! Source: none.

use std::time::{Duration, Instant};

use crate::pair::Pair;
use crate::script::Script;

/// How often a script is run before it counts as clean.
const TRIES: usize = 3;
/// Time after which no smaller script is tried.
const TIME_MAX: Duration = Duration::from_secs(10);

/// A small script, how often it was tried and how often that showed the difference, and what it showed
/// last.
pub(crate) struct Shrunk {
    pub(crate) script: Script,
    pub(crate) runs: usize,
    pub(crate) shown: usize,
    pub(crate) last: String,
}

struct Shrinker<'a, 'b> {
    pair: &'a mut Pair<'b>,
    kind: &'a str,
    last: String,
    start: Instant,
}

/// Makes `script` small, which has shown a difference of this kind.
pub(crate) fn shrink(pair: &mut Pair<'_>, script: &Script, kind: &str) -> Shrunk {
    const RUNS: usize = 10;
    let mut shrinker = Shrinker {
        pair,
        kind,
        last: String::new(),
        start: Instant::now(),
    };
    let mut script = script.clone();
    loop {
        let size = size(&script);
        shrinker.without_steps(&mut script);
        shrinker.without_messages(&mut script);
        shrinker.without_cuts(&mut script);
        if self::size(&script) == size || shrinker.is_late() {
            break;
        }
    }
    let shown = (0..RUNS).filter(|_| shrinker.shows(&script)).count();
    Shrunk {
        script,
        runs: RUNS,
        shown,
        last: shrinker.last,
    }
}

fn size(script: &Script) -> usize {
    script
        .iter()
        .map(|step| 1 + step.messages.len() + step.cuts.len())
        .sum()
}

impl Shrinker<'_, '_> {
    fn is_late(&self) -> bool {
        self.start.elapsed() > TIME_MAX
    }

    fn shows(&mut self, script: &Script) -> bool {
        match self.pair.run(script) {
            Err(difference) if difference.kind == self.kind => {
                self.last = difference.to_string();
                true
            }
            _ => false,
        }
    }

    /// Takes `smaller` if it still shows the difference.
    fn takes(&mut self, script: &mut Script, smaller: Script) -> bool {
        let shows = !self.is_late() && (0..TRIES).any(|_| self.shows(&smaller));
        if shows {
            *script = smaller;
        }
        shows
    }

    fn without_steps(&mut self, script: &mut Script) {
        let mut count = script.len().div_ceil(2);
        while count > 0 {
            let mut at = script.len().saturating_sub(count);
            loop {
                let mut smaller = script.clone();
                let end = (at + count).min(smaller.len());
                smaller.drain(at..end);
                self.takes(script, smaller);
                if at == 0 {
                    break;
                }
                at = at.saturating_sub(count);
            }
            count /= 2;
        }
    }

    fn without_messages(&mut self, script: &mut Script) {
        for step in (0..script.len()).rev() {
            // The last one ends the answer.
            for at in (0..script[step].messages.len().saturating_sub(1)).rev() {
                let mut smaller = script.clone();
                smaller[step].messages.remove(at);
                self.takes(script, smaller);
            }
        }
    }

    fn without_cuts(&mut self, script: &mut Script) {
        for step in 0..script.len() {
            if !script[step].cuts.is_empty() {
                let mut smaller = script.clone();
                smaller[step].cuts.clear();
                self.takes(script, smaller);
            }
        }
    }
}
