//! The messages that a worker holds and that no slot handles.

use std::sync::Arc;

use super::aside::Asides;
use super::buffer::Buffer;
use super::slots::Slots;

/// The messages that a worker holds and that no slot handles, to be counted from outside of the worker.
#[derive(Debug, Clone)]
pub(crate) struct Buffered {
    pub(super) buffer: Arc<Buffer>,
    pub(super) asides: Arc<Asides>,
    pub(super) slots: Arc<Slots>,
}

impl Buffered {
    /// Returns the number of messages that wait for a slot, for others with the same key, for their next attempt in this
    /// process, or to be tried in isolation.
    pub(crate) fn count(&self) -> usize {
        let asides = self.asides.made().map(|aside| aside.buffer.buffered());
        self.buffer.buffered() + asides.sum::<usize>() + self.slots.aside()
    }
}
