//! Functions of the application that are called with what happens.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::settled::SettledEvent;

type OnSettled = dyn for<'a> Fn(&SettledEvent<'a>) + Send + Sync;

/// The functions that an application has added to its broker.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    on_settled: Vec<Arc<OnSettled>>,
}

impl Hooks {
    pub(crate) fn add(&mut self, on_settled: impl for<'a> Fn(&SettledEvent<'a>) + Send + Sync + 'static) {
        self.on_settled.push(Arc::new(on_settled));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.on_settled.is_empty()
    }

    /// Calls the functions in the order in which they were added; a panic in one of them is logged.
    pub(crate) fn settled(&self, event: &SettledEvent<'_>) {
        for on_settled in &self.on_settled {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_settled(event))) {
                // The value of the panic may panic when it is dropped.
                catch_unwind(AssertUnwindSafe(|| drop(panic))).ok();
                tracing::error!(handler = event.handler, "a function passed to `on_settled` panicked");
            }
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("on_settled", &self.on_settled.len()).finish()
    }
}
