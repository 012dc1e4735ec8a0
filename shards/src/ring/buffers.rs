//! Receive memory of a shard: the provided-buffer ring, large receive regions, and [`Chunk`].
//!
//! **Owns:** the memory that the kernel fills, who still uses which part of it, and when a part
//! goes back to the kernel.
//! **Does not own:** which stream a chunk belongs to (`ring::slot`), when receives are armed.
//!
//! Only a part of the buffers is *posted* to the kernel at a time; the rest waits on a stack, last
//! used first, so that a calm shard touches little memory and finds it warm in its caches. The
//! posted number doubles when a receive finds no buffer and shrinks to what is needed on a stack of
//! its own accord, since only returned buffers are posted again.
//!
//! **Invariants**
//! 1. A buffer is posted, on the spare stack, or referenced by at least one [`Chunk`]: one of the
//!    three, never two.
//! 2. Memory that the kernel may write to outlives the ring (the owner drains the ring first, or
//!    leaks this value).
//!
//! Source: `io_uring_register(2)` `IORING_REGISTER_PBUF_RING`, `io_uring_setup_buf_ring(3)`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Size of one provided buffer in bytes.
pub const BUFFER_BYTES: usize = 8 * 1024;
/// Size of a receive region for bulk streams in bytes.
pub const REGION_BYTES: usize = 256 * 1024;
/// The buffer group under which the ring is registered.
pub(crate) const GROUP: u16 = 1;
/// Large regions that stay allocated for the next bulk receive.
const KEPT_REGIONS_MAX: usize = 4;
/// Buffers posted at the start.
const POSTED_AT_START: u16 = 256;

/// Memory of one region: a large receive region, or bytes copied out of a scarce buffer.
#[derive(Default)]
struct Region {
    memory: Box<[u8]>,
    users: u32,
}

/// All receive memory of one shard. Lives on one thread.
pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    tail: Cell<u16>,
    posted: Cell<u16>,
    posted_target: Cell<u16>,
    users: Box<[Cell<u32>]>,
    spare: RefCell<Vec<u16>>,
    regions: RefCell<Vec<Region>>,
    free_regions: RefCell<Vec<u32>>,
    kept: RefCell<Vec<Box<[u8]>>>,
}

fn map_anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a private anonymous mapping at an address of the kernel's choice aliases nothing.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

impl Buffers {
    /// Maps memory for `count` buffers and their ring; posts none yet.
    ///
    /// # Errors
    ///
    /// What `mmap(2)` says.
    ///
    /// # Panics
    ///
    /// If `count` is not a power of two below 32768: a programming error at start.
    pub(crate) fn new(count: u16) -> io::Result<Rc<Self>> {
        assert!(count.is_power_of_two() && count < 1 << 15);
        let entries = map_anonymous(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let memory = map_anonymous(usize::from(count) * BUFFER_BYTES)?;
        Ok(Rc::new(Self {
            entries,
            memory,
            count,
            tail: Cell::new(0),
            posted: Cell::new(0),
            posted_target: Cell::new(POSTED_AT_START.min(count)),
            users: (0..count).map(|_| Cell::new(0)).collect(),
            spare: RefCell::new((0..count).rev().collect()),
            regions: RefCell::new(Vec::new()),
            free_regions: RefCell::new(Vec::new()),
            kept: RefCell::new(Vec::new()),
        }))
    }

    /// Address of the ring of entries, for registration.
    pub(crate) fn ring_address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Number of entries, for registration.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Buffers that no chunk uses, posted or spare.
    pub(crate) fn free_count(&self) -> usize {
        usize::from(self.posted.get()) + self.spare.borrow().len()
    }

    /// True below a quarter of free buffers: what waits for a slow peer is then copied to the heap.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free_count() * 4 < usize::from(self.count)
    }

    /// A receive found no posted buffer: post more from now on.
    pub(crate) fn grow_posted(&self) {
        self.posted_target
            .set(self.posted_target.get().saturating_mul(2).min(self.count));
    }

    /// Posts spare buffers up to the target. Returns true if the kernel has at least one.
    pub(crate) fn post_spare(&self) -> bool {
        let mut spare = self.spare.borrow_mut();
        let mut tail = self.tail.get();
        let mut posted = self.posted.get();
        let before = tail;
        while posted < self.posted_target.get() {
            let Some(id) = spare.pop() else { break };
            self.write_entry(tail, id);
            tail = tail.wrapping_add(1);
            posted += 1;
        }
        if tail != before {
            self.tail.set(tail);
            self.posted.set(posted);
            // SAFETY: `tail` points into the mapped ring header and is valid for the life of
            // `self`; the kernel reads it with acquire semantics, so entries written above are
            // visible to it first.
            unsafe {
                let shared = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
                (*shared).store(tail, Ordering::Release);
            }
        }
        posted > 0
    }

    fn write_entry(&self, tail: u16, id: u16) {
        let index = usize::from(tail & (self.count - 1));
        // SAFETY: `index < count`, so the entry lies in the mapping; the kernel does not read it
        // before the tail passes it, which happens after this write on this thread.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(self.buffer_address(id).as_ptr() as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
    }

    fn buffer_address(&self, id: u16) -> NonNull<u8> {
        debug_assert!(id < self.count);
        // SAFETY: `id < count`, so the offset stays inside the mapping of `count` buffers.
        unsafe { self.memory.add(usize::from(id) * BUFFER_BYTES) }
    }

    /// The kernel has filled a posted buffer; it now waits in its stream's list.
    pub(crate) fn note_filled(&self, id: u16) {
        self.posted.set(self.posted.get() - 1);
        self.users[usize::from(id)].set(1);
    }

    /// The first `len` bytes of a buffer for which [`Self::note_filled`] was called.
    pub(crate) fn filled_earlier(self: &Rc<Self>, id: u16, len: usize) -> Chunk {
        debug_assert!(len <= BUFFER_BYTES && self.users[usize::from(id)].get() == 1);
        let start = self.buffer_address(id);
        Chunk {
            start,
            len: len as u32,
            id: u32::from(id),
            home: Rc::clone(self),
        }
    }

    /// Puts `memory` under reference counting as one chunk of its first `len` bytes.
    pub(crate) fn adopt_region(self: &Rc<Self>, mut memory: Box<[u8]>, len: usize) -> Chunk {
        debug_assert!(len <= memory.len());
        let start = NonNull::new(memory.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let region = Region { memory, users: 1 };
        let mut regions = self.regions.borrow_mut();
        let index = if let Some(index) = self.free_regions.borrow_mut().pop() {
            regions[index as usize] = region;
            index
        } else {
            regions.push(region);
            (regions.len() - 1) as u32
        };
        let id = u32::from(self.count) + index;
        Chunk {
            start,
            len: len as u32,
            id,
            home: Rc::clone(self),
        }
    }

    /// A large region for one bulk receive, from the kept ones if there is one.
    pub(crate) fn take_region(&self) -> Box<[u8]> {
        let kept = self.kept.borrow_mut().pop();
        kept.unwrap_or_else(|| vec![0; REGION_BYTES].into_boxed_slice())
    }

    /// Gives a large region back without a chunk having been made of it.
    pub(crate) fn give_back_region(&self, memory: Box<[u8]>) {
        let mut kept = self.kept.borrow_mut();
        if memory.len() == REGION_BYTES && kept.len() < KEPT_REGIONS_MAX {
            kept.push(memory);
        }
    }

    fn add_user(&self, id: u32) {
        match id.checked_sub(u32::from(self.count)) {
            None => {
                let users = &self.users[id as usize];
                users.set(users.get() + 1);
            }
            Some(index) => self.regions.borrow_mut()[index as usize].users += 1,
        }
    }

    fn user_count(&self, id: u32) -> u32 {
        match id.checked_sub(u32::from(self.count)) {
            None => self.users[id as usize].get(),
            Some(index) => self.regions.borrow()[index as usize].users,
        }
    }

    fn remove_user(&self, id: u32) {
        let Some(index) = id.checked_sub(u32::from(self.count)) else {
            let users = &self.users[id as usize];
            users.set(users.get() - 1);
            if users.get() == 0 {
                self.spare.borrow_mut().push(id as u16);
            }
            return;
        };
        let memory = {
            let mut regions = self.regions.borrow_mut();
            let region = &mut regions[index as usize];
            region.users -= 1;
            if region.users > 0 {
                return;
            }
            std::mem::take(&mut region.memory)
        };
        self.free_regions.borrow_mut().push(index);
        self.give_back_region(memory);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new` with these sizes, nothing points into them any
        // more (chunks hold an `Rc` of `self`), and the ring has been drained or closed before.
        unsafe {
            let entries_bytes = usize::from(self.count) * size_of::<BufRingEntry>();
            libc::munmap(self.entries.as_ptr().cast(), entries_bytes);
            libc::munmap(
                self.memory.as_ptr().cast(),
                usize::from(self.count) * BUFFER_BYTES,
            );
        }
    }
}

/// Received bytes: a counted reference to a part of a receive buffer. Never empty by construction
/// of the ring, though [`Chunk::advance`] and [`Chunk::split_to`] may leave it so.
///
/// Clones and slices share the buffer; it returns to the kernel when the last one is dropped.
pub struct Chunk {
    start: NonNull<u8>,
    len: u32,
    id: u32,
    home: Rc<Buffers>,
}

impl Chunk {
    /// Drops the first `count` bytes from view (all of them if there are fewer).
    pub fn advance(&mut self, count: usize) {
        let count = (count as u32).min(self.len);
        // SAFETY: `count <= len`, so the new start is inside the same buffer or one past its end.
        self.start = unsafe { self.start.add(count as usize) };
        self.len -= count;
    }

    /// Splits off and returns the first `count` bytes; `self` keeps the rest.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let head = self.slice(0..count);
        self.advance(count);
        head
    }

    /// Shortens the view to its first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.len = self.len.min(count as u32);
    }

    /// A second reference to a part of this chunk; the range is cut to what is there.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut part = self.clone();
        part.truncate(range.end);
        part.advance(range.start);
        part
    }

    /// The bytes, to be changed in place; `None` if another chunk refers to the same buffer.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        if self.home.user_count(self.id) != 1 {
            return None;
        }
        let (start, len) = (self.start.as_ptr(), self.len as usize);
        // SAFETY: `start..start + len` lies in a buffer that this chunk keeps in use. No other chunk
        // refers to the buffer, `self` is borrowed exclusively, and the kernel writes to it only after
        // the last user is gone.
        Some(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// Moves the bytes to the heap if receive buffers are scarce, so that waiting does not hold one.
    #[must_use]
    pub fn release_if_scarce(self) -> Self {
        let provided = self.id < u32::from(self.home.count);
        if provided && self.home.is_scarce() {
            self.to_heap()
        } else {
            self
        }
    }

    /// A copy of the bytes in memory of its own.
    #[must_use]
    pub fn to_heap(&self) -> Self {
        let copy: Box<[u8]> = self.as_ref().into();
        let len = copy.len();
        self.home.adopt_region(copy, len)
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        self.home.add_user(self.id);
        Self {
            start: self.start,
            len: self.len,
            id: self.id,
            home: Rc::clone(&self.home),
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in a buffer that this chunk keeps in use; the kernel
        // writes to it only after the last user is gone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.home.remove_user(self.id);
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_posted(buffers: &Rc<Buffers>, id: u16, text: &[u8]) -> Chunk {
        // SAFETY: the test plays the kernel and writes into a posted buffer before it is filled.
        unsafe {
            let to = buffers.buffer_address(id).as_ptr();
            std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
        }
        buffers.note_filled(id);
        buffers.filled_earlier(id, text.len())
    }

    #[test]
    fn a_buffer_returns_only_when_its_last_user_is_gone() {
        let buffers = Buffers::new(8).unwrap();
        assert!(buffers.post_spare());
        assert_eq!(buffers.free_count(), 8);
        let mut chunk = take_posted(&buffers, 0, b"hello world");
        let hello = chunk.split_to(5);
        chunk.advance(1);
        assert_eq!((&*hello, &*chunk), (&b"hello"[..], &b"world"[..]));
        assert_eq!(buffers.free_count(), 7);
        drop(chunk);
        assert_eq!(buffers.free_count(), 7);
        drop(hello);
        assert_eq!(buffers.free_count(), 8);
    }

    #[test]
    fn only_the_one_user_of_a_buffer_changes_its_bytes() {
        let buffers = Buffers::new(8).unwrap();
        buffers.post_spare();
        let region = buffers.adopt_region(b"one two".to_vec().into_boxed_slice(), 7);
        for mut chunk in [take_posted(&buffers, 0, b"one two"), region] {
            let mut tail = chunk.slice(4..7);
            assert!(chunk.get_mut().is_none() && tail.get_mut().is_none());
            drop(chunk);
            tail.get_mut().unwrap().copy_from_slice(b"six");
            assert_eq!(&*tail, b"six");
        }
    }

    #[test]
    fn scarce_buffers_are_released_by_a_copy() {
        let buffers = Buffers::new(8).unwrap();
        buffers.post_spare();
        let mut held: Vec<_> = (0..6).map(|id| take_posted(&buffers, id, b"x")).collect();
        assert!(!buffers.is_scarce());
        let kept = held.pop().unwrap().release_if_scarce();
        assert_eq!(buffers.free_count(), 2, "not scarce: nothing copied");
        held.push(kept);
        held.push(take_posted(&buffers, 6, b"yz"));
        assert!(buffers.is_scarce());
        let copied = held.pop().unwrap().release_if_scarce();
        assert_eq!(&*copied, b"yz");
        assert_eq!(buffers.free_count(), 2);
        assert_eq!(&*copied.slice(1..9), b"z");
    }

    #[test]
    fn large_regions_are_kept_for_reuse_up_to_a_bound() {
        let buffers = Buffers::new(8).unwrap();
        let chunks: Vec<_> = (0..10)
            .map(|_| buffers.adopt_region(buffers.take_region(), 100))
            .collect();
        drop(chunks);
        assert_eq!(buffers.kept.borrow().len(), KEPT_REGIONS_MAX);
    }
}
