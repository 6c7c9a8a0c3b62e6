//! A function that puts something around the call of a handler.

use std::fmt;
use std::sync::Arc;

use super::{Call, Handler};

/// A function that puts something around the call of a handler, such as a layer.
#[derive(Clone)]
pub struct Wrapper(Arc<Wrap>);

type Wrap = dyn Fn(Arc<dyn Call>) -> Arc<dyn Call> + Send + Sync;

impl Wrapper {
    pub(crate) fn new(wrap: impl Fn(Arc<dyn Call>) -> Arc<dyn Call> + Send + Sync + 'static) -> Self {
        Self(Arc::new(wrap))
    }

    /// Puts it around a handler, outside of what the handler has already.
    pub(crate) fn apply(&self, handler: &mut Handler) {
        handler.call = self.0(handler.call.clone());
    }
}

impl fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapper")
    }
}
