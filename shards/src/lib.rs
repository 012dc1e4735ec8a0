//! Thread-per-core runtime over io_uring.
