//! Binary upgrade: a new process takes over from the one that runs, and nobody notices.
//!
//! ```text
//!   old process (donor)                          new process (heir)
//!      program -t ──▶ checks the configuration
//!      starts it, with one end of a socket ────▶
//!      hello, listening sockets, begin ────────▶ adopts them, starts its shards
//!                       ◀────────────────────── ready
//!      accepts no more, lends no more servers
//!      sessions, what remains here ────────────▶ serves them; opens servers as they go there
//!                       ◀────────────────────── cancel requests for what is still there
//!      ends when nobody is left ──────(end)────▶ has all of the pool
//! ```
//!
//! **Owns:** the order of these steps, the messages (`word`), both sides (`donor`, `heir`), what the control
//! thread (`steps`, `vigil`, `arrivals`) and a shard (`departure`) do for them, and how the program is started (`program`).
//! **Does not own:** what a session is as bytes (`session::passport`), the form of messages (`upgrade`).
//!
//! **Invariants**
//! 1. Until the heir is ready the donor serves as if nothing had happened; whatever fails before ends the
//!    heir, and nothing else.
//! 2. A listening socket is never closed by both: who connects finds one of the two, in the same queue.
//! 3. A pool has as many servers in the heir as its size leaves when those are taken off that the donor
//!    has or may open; the same is true of client connections.
//! 4. If the heir ends while the donor still runs, the donor accepts again, and takes back every client that
//!    the heir has not said that it has.

mod account;
pub mod arrivals;
mod cancels;
pub mod departure;
pub mod donor;
mod emigrants;
pub mod heir;
mod ledger;
pub mod notify;
pub mod program;
pub mod relay;
pub mod steps;
pub mod transit;
mod vigil;
pub mod word;
