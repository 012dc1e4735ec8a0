//! Which replies a server still owes, and to whom.
//!
//! **Owns:** the queue of requests sent to one server and not yet answered.
//! **Does not own:** bytes, sockets, what to do with a reply.
//!
//! PostgreSQL answers in order, so one FIFO tells for every reply whose it is: the client's, or the
//! pooler's own (a `SET` before the client's query, a reset after it), which no client may see.
//!
//! ```text
//!   request sent          reply that ends it
//!   Parse                 1
//!   Bind                  2
//!   Close                 3
//!   Describe (statement)  t, then T or n
//!   Describe (portal)     T or n
//!   Execute               C, I or s      (G: the server reads COPY data until CopyDone or CopyFail)
//!   Query, FunctionCall   Z              (an E before it changes nothing)
//!   Sync                  Z
//!
//!   E while the first is an extended request ──▶ the server skips everything up to Sync
//! ```
//!
//! Some requests the pooler answers itself: the Parse of a statement that the server has already, the
//! Close of one that it is to keep. Such a request is *promised*: it stands in the queue like the
//! others, so its reply has its place among the server's, and is skipped with them after an error.
//!
//! Some requests are *noted*: somebody keeps a journal of what they change. The queue counts which of
//! them were done and which failed or were skipped, in order.
//!
//! A Sync sent into a COPY is ignored, unless the COPY has failed before the server read it: then
//! it is answered. Nothing in the error tells which. Until another reply does, the connection is
//! *in doubt*: not settled, and ready for a `ReadyForQuery` more.
//!
//! **Invariants**
//! 1. A reply that does not fit the queue makes the connection *out of step*, for good: it must be
//!    closed, and nothing further may be forwarded from it.
//! 2. The server may be lent again only if nothing is owed and the last reply was `ReadyForQuery`.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query", "COPY Operations".

mod outcomes;

use std::collections::VecDeque;

pub use outcomes::{Bearing, Noted, Outcomes, Tally};

/// Whose request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The client's: the reply is forwarded.
    Client,
    /// The pooler's own: the reply is kept from the client.
    Pooler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Parse,
    Bind,
    Close,
    DescribeStatement,
    /// Also the second half of a statement's description.
    DescribePortal,
    Execute,
    Query,
    Sync,
    /// A Parse that the server does not get.
    PromisedParse,
    /// A Close that the server does not get.
    PromisedClose,
    /// Not answered; marks where COPY data ends among pipelined requests.
    CopyEnd,
}

impl Request {
    const fn is_extended(self) -> bool {
        !matches!(self, Self::Query | Self::Sync | Self::CopyEnd)
    }

    const fn is_promised(self) -> bool {
        matches!(self, Self::PromisedParse | Self::PromisedClose)
    }

    const fn awaits_ready(self) -> bool {
        matches!(self, Self::Query | Self::Sync)
    }

    const fn executes(self) -> bool {
        matches!(self, Self::Query | Self::Execute)
    }
}

/// What a reply means for the one who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reply {
    /// It answers a request of this owner.
    Of(Owner),
    /// It belongs to no request: a notice, a notification, a parameter.
    Unasked,
    /// It fits no request: the connection is out of step.
    OutOfStep,
}

#[derive(Clone, Copy, Debug)]
struct Owed {
    request: Request,
    owner: Owner,
    noted: Noted,
    /// An error has been reported, and the reply that ends the request is still to come.
    has_failed: bool,
    bearing: Bearing,
    /// The prepared statement that it uses; `NOTHING` if it uses none of the pooler's.
    about: u32,
}

/// How many requests of some kinds are in the queue.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    promised: usize,
    /// Those that `ReadyForQuery` ends.
    ready: usize,
    /// Those that run something.
    execution: usize,
}

impl Counts {
    const fn add(&mut self, request: Request) {
        self.promised += request.is_promised() as usize;
        self.ready += request.awaits_ready() as usize;
        self.execution += request.executes() as usize;
    }

    const fn remove(&mut self, request: Request) {
        self.promised -= request.is_promised() as usize;
        self.ready -= request.awaits_ready() as usize;
        self.execution -= request.executes() as usize;
    }
}
/// No prepared statement.
const NOTHING: u32 = u32::MAX;

/// Requests sent to one server and not yet answered.
#[derive(Debug, Default)]
pub struct Sync {
    owed: VecDeque<Owed>,
    /// After an error: the server ignores everything up to the next Sync.
    skipping: bool,
    /// The server reads COPY data from the client.
    copying_in: bool,
    out_of_step: bool,
    /// Requests of the extended protocol have been sent since the last Sync or Query.
    unsynced: bool,
    /// How many Syncs have been sent into the current COPY.
    syncs_in_copy: usize,
    /// How many Syncs, sent into a COPY that failed, the server may answer yet.
    doubted: usize,
    /// As `unsynced`, of what the server has got.
    server_unsynced: bool,
    counts: Counts,
    outcomes: Option<Outcomes>,
    /// The prepared statement that the request which failed last has used.
    blamed: Option<u32>,
}

impl Sync {
    /// True if every request has been answered, up to a `ReadyForQuery`.
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty()
            && !self.unsynced
            && !self.skipping
            && !self.copying_in
            && self.doubted == 0
            && !self.out_of_step
    }

    /// A message was sent in part and will not be completed: nothing may be sent any more, since
    /// the server would take it for the rest.
    pub const fn cut_off(&mut self) {
        self.out_of_step = true;
    }

    /// True if the connection can no longer be understood.
    pub const fn is_out_of_step(&self) -> bool {
        self.out_of_step
    }

    /// True if a `ReadyForQuery` will come even if nothing more is sent.
    pub const fn awaits_ready(&self) -> bool {
        !self.copying_in && self.counts.ready > 0
    }

    /// True if a batch before the one that is being sent has not been answered.
    pub const fn owes_ready(&self) -> bool {
        self.counts.ready > 0
    }

    /// True if something runs, or will, that may change the status of the transaction.
    pub const fn owes_execution(&self) -> bool {
        self.counts.execution > 0
    }

    /// Requests that are not answered yet.
    pub fn owed_count(&self) -> usize {
        self.owed.len()
    }

    /// True if something that was sent is still to be answered.
    pub fn owes_replies(&self) -> bool {
        let is_answered = |owed: &Owed| owed.request != Request::CopyEnd;
        self.owed.iter().any(is_answered)
    }

    /// True if the server may keep replies back: it has got requests behind the last `Sync`.
    pub const fn may_keep_replies(&self) -> bool {
        self.server_unsynced
    }

    /// True if the reply with this tag, if it comes next, belongs to the pooler.
    pub fn is_own(&self, tag: u8) -> bool {
        let mut owed = self.owed.iter();
        matches!(tag, b'1' | b'3' | b't' | b'T' | b'n')
            && owed
                .find(|owed| owed.request != Request::CopyEnd)
                .is_some_and(|owed| owed.owner == Owner::Pooler)
    }

    /// True if the error with this tag, if it comes next, is the one that was asked for.
    pub fn is_refusal(&self, tag: u8) -> bool {
        let mut owed = self.owed.iter();
        tag == b'E'
            && owed
                .find(|owed| owed.request != Request::CopyEnd)
                .is_some_and(|owed| owed.bearing == Bearing::Refuses)
    }

    /// True if the server ignores requests at the moment, up to a Sync, or must not get any.
    pub const fn ignores_requests(&self) -> bool {
        self.skipping || self.copying_in
    }

    /// Notes a request that has been sent. `describes_statement` tells the two kinds of Describe
    /// apart. Tags that are never answered are ignored.
    pub fn sent(&mut self, tag: u8, describes_statement: bool, owner: Owner) {
        self.sent_noted(tag, describes_statement, owner, Noted::BY_NOBODY);
    }

    /// True if a reply that does not come from the server would have a certain place.
    pub const fn may_promise(&self) -> bool {
        self.doubted == 0 && self.syncs_in_copy == 0
    }

    /// Notes a Parse or Close (by its tag) of the client that is not sent: [`Sync::take_promised`]
    /// says when its reply is due. Only if [`Sync::may_promise`].
    pub fn promised(&mut self, tag: u8, noted: Noted) {
        let request = if tag == b'P' {
            Request::PromisedParse
        } else {
            Request::PromisedClose
        };
        self.unsynced = true;
        self.push(request, Owner::Client, noted);
    }

    fn push(&mut self, request: Request, owner: Owner, noted: Noted) {
        self.counts.add(request);
        self.owed.push_back(Owed {
            request,
            owner,
            noted,
            has_failed: false,
            bearing: Bearing::None,
            about: NOTHING,
        });
    }

    /// The client has gone: nobody wants the replies to requests that the server has not got.
    pub fn forget_promised(&mut self) {
        if !self.server_unsynced && self.owed.len() == self.counts.promised {
            self.owed.clear();
            self.counts = Counts::default();
            self.unsynced = false;
        }
    }

    /// The tag of the reply that the client is to get now, before whatever the server says next.
    pub fn take_promised(&mut self) -> Option<u8> {
        if self.counts.promised == 0 {
            return None;
        }
        let tag = match self.front()?.0 {
            Request::PromisedParse => b'1',
            Request::PromisedClose => b'3',
            _ => return None,
        };
        self.end_first(true);
        Some(tag)
    }

    /// What has become of noted requests since the last call.
    pub const fn take_outcomes(&mut self) -> Option<Outcomes> {
        self.outcomes.take()
    }

    /// As [`Sync::sent`], for a request that a journal has. The server must not be ignoring requests.
    pub fn sent_noted(&mut self, tag: u8, describes_statement: bool, owner: Owner, noted: Noted) {
        let request = match tag {
            b'Q' | b'F' => Request::Query,
            b'S' => Request::Sync,
            b'P' => Request::Parse,
            b'B' => Request::Bind,
            b'C' => Request::Close,
            b'D' if describes_statement => Request::DescribeStatement,
            b'D' => Request::DescribePortal,
            b'E' => Request::Execute,
            b'c' | b'f' => return self.copy_ended(owner),
            _ => return,
        };
        if self.copying_in {
            // The server ignores Sync while it reads COPY data; anything else ends the COPY with
            // an error, after which the server does not tell how it goes on.
            self.out_of_step |= request != Request::Sync;
            self.syncs_in_copy += 1;
            return;
        }
        if self.skipping && request != Request::Sync {
            return;
        }
        self.skipping = false;
        self.unsynced = request.is_extended();
        self.server_unsynced = self.unsynced;
        self.push(request, owner, noted);
    }

    /// As [`Sync::sent_noted`], for a Bind or the Describe of a statement of the client's that uses the
    /// statement that its server calls `about`.
    pub fn sent_about(&mut self, tag: u8, noted: Noted, about: u32) {
        self.sent_noted(tag, tag == b'D', Owner::Client, noted);
        if let Some(owed) = self.owed.back_mut() {
            owed.about = about;
        }
    }

    /// The description of a statement is asked for on the pooler's own account.
    pub fn sent_own_describe(&mut self, about: u32) {
        self.sent(b'D', true, Owner::Pooler);
        if let Some(owed) = self.owed.back_mut() {
            owed.about = about;
        }
        self.bears(Bearing::Tells);
    }

    /// What the request that was sent last has to do with what clients are told.
    pub fn bears(&mut self, bearing: Bearing) {
        if let Some(owed) = self.owed.back_mut() {
            owed.bearing = bearing;
        }
    }

    /// The statement used by the request that an error was about.
    pub const fn take_blamed(&mut self) -> Option<u32> {
        self.blamed.take()
    }

    fn copy_ended(&mut self, owner: Owner) {
        if self.copying_in {
            self.copying_in = false;
        } else if !self.owed.is_empty() {
            self.push(Request::CopyEnd, owner, Noted::BY_NOBODY);
        }
    }

    /// Notes a reply by its tag and tells whose it is. Replies of several messages (rows, COPY
    /// data) are noted for each message.
    pub fn received(&mut self, tag: u8) -> Reply {
        let reply = match tag {
            b'N' | b'A' | b'S' => Reply::Unasked,
            b'E' => self.error(),
            b'Z' => self.ready(),
            b'G' => self.copy_in(),
            b'1' => self.end_of(Request::Parse),
            b'2' => self.end_of(Request::Bind),
            b'3' => self.end_of(Request::Close),
            b't' => self.statement_described(),
            b'T' | b'n' => self.described(),
            b'C' | b'I' | b's' => self.completed(),
            b'D' | b'd' | b'c' | b'H' | b'V' | b'W' => self.part_of_answer(),
            _ => Reply::OutOfStep,
        };
        self.out_of_step |= reply == Reply::OutOfStep;
        if matches!(reply, Reply::Of(_)) && !matches!(tag, b'E' | b'Z') {
            // It answers a request behind the doubted Syncs.
            self.doubted = 0;
        }
        reply
    }

    fn front(&mut self) -> Option<(Request, Owner)> {
        while self
            .owed
            .front()
            .is_some_and(|owed| owed.request == Request::CopyEnd)
        {
            self.owed.pop_front();
        }
        self.owed.front().map(|owed| (owed.request, owed.owner))
    }

    /// The first request has been answered or skipped.
    fn end_first(&mut self, is_done: bool) {
        let Some(owed) = self.owed.pop_front() else {
            return;
        };
        self.counts.remove(owed.request);
        let tells = owed.bearing == Bearing::Tells;
        if owed.noted != Noted::BY_NOBODY || tells {
            let is_done = is_done && !owed.has_failed;
            let outcomes = self.outcomes.get_or_insert_default();
            outcomes.client.count(owed.noted.by_client, is_done);
            outcomes.server.count(owed.noted.by_server, is_done);
            outcomes.telling.count(tells, is_done);
        }
    }

    fn end_of(&mut self, expected: Request) -> Reply {
        match self.front() {
            Some((request, owner)) if request == expected => {
                self.end_first(true);
                Reply::Of(owner)
            }
            _ => Reply::OutOfStep,
        }
    }

    fn statement_described(&mut self) -> Reply {
        match self.front() {
            Some((Request::DescribeStatement, owner)) => {
                self.owed[0].request = Request::DescribePortal;
                Reply::Of(owner)
            }
            _ => Reply::OutOfStep,
        }
    }

    fn described(&mut self) -> Reply {
        match self.front() {
            Some((Request::Query, owner)) => Reply::Of(owner),
            _ => self.end_of(Request::DescribePortal),
        }
    }

    fn completed(&mut self) -> Reply {
        self.copying_in = false;
        self.syncs_in_copy = 0;
        match self.front() {
            Some((Request::Query, owner)) => Reply::Of(owner),
            _ => self.end_of(Request::Execute),
        }
    }

    fn part_of_answer(&mut self) -> Reply {
        match self.front() {
            Some((Request::Query | Request::Execute, owner)) => Reply::Of(owner),
            _ => Reply::OutOfStep,
        }
    }

    /// The server now reads COPY data. Under the extended protocol it ignores a Sync that it finds
    /// among them.
    fn copy_in(&mut self) -> Reply {
        let Some((Request::Query | Request::Execute, owner)) = self.front() else {
            return Reply::OutOfStep;
        };
        self.copying_in = true;
        while let Some(next) = self.owed.get(1) {
            match next.request {
                Request::CopyEnd => self.copying_in = false,
                Request::Sync => self.syncs_in_copy += 1,
                _ => self.out_of_step = true,
            }
            if self.out_of_step {
                break;
            }
            self.counts.remove(next.request);
            self.owed.remove(1);
            if !self.copying_in {
                break;
            }
        }
        // One of the Syncs just removed may have been the last request.
        let last = self
            .owed
            .iter()
            .rev()
            .find(|owed| owed.request != Request::CopyEnd);
        self.unsynced = last.is_some_and(|owed| owed.request.is_extended());
        self.server_unsynced = self.unsynced;
        Reply::Of(owner)
    }

    fn error(&mut self) -> Reply {
        self.copying_in = false;
        let Some((request, owner)) = self.front() else {
            // An error that nobody caused: the server is saying farewell.
            return Reply::Unasked;
        };
        if request != Request::Sync {
            self.doubted = 0;
        }
        if request.is_extended() {
            self.doubted = std::mem::take(&mut self.syncs_in_copy);
            // Nobody knows any more which ReadyForQuery a promised reply comes behind.
            if self.doubted > 0 && self.counts.promised > 0 {
                return Reply::OutOfStep;
            }
            let about = self.owed.front().map(|owed| owed.about);
            self.blamed = about.filter(|about| *about != NOTHING);
            let is_to_blame = self.owed.front().is_some_and(|owed| owed.noted.by_client);
            while let Some(owed) = self.owed.front() {
                if owed.request == Request::Sync {
                    break;
                }
                self.end_first(false);
            }
            if let Some(outcomes) = &mut self.outcomes {
                outcomes.is_first_to_blame = is_to_blame;
            }
            self.skipping = self.owed.is_empty();
        } else if let Some(owed) = self.owed.front_mut() {
            owed.has_failed = true;
        }
        Reply::Of(owner)
    }

    fn ready(&mut self) -> Reply {
        self.copying_in = false;
        match self.front() {
            // A Query is not answered by this alone, nor is an extended request.
            front if self.doubted > 0 && !matches!(front, Some((Request::Sync, _))) => {
                self.doubted -= 1;
                self.skipping = false;
                self.unsynced &= front.is_some();
                self.server_unsynced &= front.is_some();
                // The pooler itself sends nothing into a COPY.
                Reply::Of(Owner::Client)
            }
            Some((Request::Query | Request::Sync, owner)) => {
                let failed = self.owed.front().is_some_and(|owed| owed.has_failed);
                self.end_first(true);
                if let Some(outcomes) = &mut self.outcomes {
                    outcomes.is_first_to_blame |= failed;
                }
                self.doubted += std::mem::take(&mut self.syncs_in_copy);
                // Marks of COPY data that no COPY has asked for.
                self.front();
                Reply::Of(owner)
            }
            _ => Reply::OutOfStep,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
