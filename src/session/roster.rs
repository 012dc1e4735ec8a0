//! The clients of a shard, for those who want to see them or have them closed.
//!
//! **Owns:** the list of cards.
//! **Does not own:** what is on them (`card`).
//!
//! **Invariant:** a client is on the list as long as its place lives. Who reads the list reads a page
//! at a time: a shard with many clients is not held up by one question.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::card::ClientCard;

#[derive(Debug, Default)]
struct Places {
    all: Vec<Option<Rc<ClientCard>>>,
    free: Vec<u32>,
}

/// The clients of a shard.
#[derive(Debug, Default)]
pub struct Roster(RefCell<Places>, Cell<u32>);

/// A client's place on the list.
#[derive(Debug)]
pub struct Seated {
    card: Rc<ClientCard>,
    roster: Rc<Roster>,
    number: u32,
}

impl Roster {
    /// Puts a client on the list.
    pub fn seat(self: &Rc<Self>, card: Rc<ClientCard>) -> Seated {
        let mut places = self.0.borrow_mut();
        let entry = Some(Rc::clone(&card));
        let number = if let Some(number) = places.free.pop() {
            places.all[number as usize] = entry;
            number
        } else {
            places.all.push(entry);
            (places.all.len() - 1) as u32
        };
        Seated {
            card,
            roster: Rc::clone(self),
            number,
        }
    }

    /// A number that was not given out for a long time.
    pub fn next_number(&self) -> u32 {
        self.1.replace(self.1.get().wrapping_add(1))
    }

    /// The clients in up to `count` places from `from` on, and where to go on.
    pub fn page(&self, from: u32, count: usize) -> (Vec<Rc<ClientCard>>, Option<u32>) {
        let places = self.0.borrow();
        let start = (from as usize).min(places.all.len());
        let end = places.all.len().min(start + count);
        let cards = places.all[start..end].iter().flatten();
        let next = (end < places.all.len()).then_some(end as u32);
        (cards.cloned().collect(), next)
    }

    /// All clients that `is_it` picks.
    pub fn find(&self, is_it: impl Fn(&ClientCard) -> bool) -> Vec<Rc<ClientCard>> {
        let places = self.0.borrow();
        let cards = places.all.iter().flatten();
        cards.filter(|card| is_it(card)).cloned().collect()
    }
}

impl Deref for Seated {
    type Target = ClientCard;

    fn deref(&self) -> &ClientCard {
        &self.card
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.card.gone();
        let mut places = self.roster.0.borrow_mut();
        let card = places.all[self.number as usize].take();
        places.free.push(self.number);
        drop(places);
        drop(card);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::card::{Belongs, ClientTally};
    use super::*;

    fn card(id: u32) -> Rc<ClientCard> {
        let names = Box::new(("pgdoorman".into(), "admin".into()));
        let tally = ClientTally::new(id, None, Instant::now());
        ClientCard::new(Belongs::Console(names), Rc::default(), 0, tally)
    }

    #[test]
    fn pages_have_every_client_once() {
        let roster = Rc::new(Roster::default());
        let mut seats: Vec<_> = (0..10).map(|id| roster.seat(card(id))).collect();
        seats.remove(3);
        seats.remove(0);
        let mut ids = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let (cards, after) = roster.page(from, 4);
            ids.extend(cards.iter().map(|card| card.tally().id));
            next = after;
        }
        assert_eq!(ids, [1, 2, 4, 5, 6, 7, 8, 9]);
        seats.push(roster.seat(card(10)));
        assert_eq!(roster.find(|card| card.tally().id == 10).len(), 1);
        drop(seats);
        assert!(roster.page(0, 100).0.is_empty());
    }
}
