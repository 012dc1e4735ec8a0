//! What a client has been told of the results of its statements.
//!
//! **Owns:** the requests on their way that tell it, and the one that the next message waits for.
//! **Does not own:** what a result looks like (`server::statements::shape`), what becomes of a message
//! about a statement whose result has changed (`session::guard`).
//!
//! **Invariant:** requests that tell a result are answered in the order in which they were noted.
//!
//! Source: none.

use std::rc::Rc;

use crate::server::statements::ResultOf;
use crate::server::statements::shape::Shape;

use super::Prepared;

/// A request on its way that tells the client what the result of a statement looks like.
#[derive(Debug)]
pub(super) struct Telling {
    /// The client's name of the statement. None if it is the unnamed one.
    name: Option<Rc<[u8]>>,
    /// The client's definition of it.
    edition: u32,
    /// The statement on the server, and what its result looks like if that is known.
    result: ResultOf,
}

impl Prepared {
    /// The generation of the database when `name` was defined, and what the client has been told of the
    /// result since.
    pub(in crate::session) fn known(&self, name: &[u8]) -> (u32, Shape) {
        let entry = self.entry(name);
        (entry.since, entry.told)
    }

    /// A request is sent that, if it is done, tells the client the result of the statement that it calls
    /// `name`. If the shape of `result` is not known, the description is.
    pub(in crate::session) fn tells(&mut self, name: &[u8], result: ResultOf) {
        let edition = self.entry(name).edition;
        let name = self.named.get_key_value(name);
        self.tellings.push_back(Telling {
            name: name.map(|(name, _)| Rc::clone(name)),
            edition,
            result,
        });
    }

    /// Nothing more is to be sent before this result has been described.
    pub(in crate::session) const fn awaits(&mut self, result: ResultOf) {
        self.awaited = Some((result, false));
    }

    /// True if a description has to come before the next message is looked at.
    pub(in crate::session) const fn is_waiting(&self) -> bool {
        matches!(self.awaited, Some((_, false)))
    }

    /// The result whose description the next message had to wait for.
    pub(in crate::session) fn take_awaited(&mut self) -> Option<ResultOf> {
        self.awaited.take().map(|(result, _)| result)
    }

    /// The first of the requests that tell a result has been answered, with this description, or not.
    /// Returns what the server is known to have for a result, if that is news.
    pub(in crate::session) fn answered(
        &mut self,
        description: Option<Shape>,
    ) -> Option<(ResultOf, Shape)> {
        let Telling {
            name,
            edition,
            result,
        } = self.tellings.pop_front()?;
        let is_description = !result.shape.is_known();
        let shape = match description {
            Some(shape) if is_description => shape,
            Some(_) => result.shape,
            None => Shape::UNKNOWN,
        };
        let entry = match &name {
            None => Some(&mut self.unnamed),
            Some(name) => self.named.get_mut(name),
        };
        if let Some(entry) = entry.filter(|one| one.edition == edition && !one.told.is_known()) {
            entry.told = shape;
        }
        if !is_description {
            return None;
        }
        if let Some((awaited, has_come)) = &mut self.awaited
            && awaited.edition == result.edition
        {
            *has_come = true;
            if description.is_none() {
                self.awaited = None;
            }
        }
        Some((result, shape))
    }
}
