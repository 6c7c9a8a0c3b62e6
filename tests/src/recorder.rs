//! Recording what handlers are called with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Formatter};
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::wait::{SOON, eventually};

/// The items that handlers recorded, in order, each with its time.
///
/// Clones share one record, so that a test and its handlers can each own one.
pub struct Recorder<T = u64>(Arc<Mutex<Vec<(T, Instant)>>>);

impl Recorder {
    /// Returns an empty record of numbers.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T> Recorder<T> {
    fn with<R>(&self, read: impl FnOnce(&mut Vec<(T, Instant)>) -> R) -> R {
        // Some handlers panic on purpose.
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of recorded items.
    pub fn len(&self) -> usize {
        self.with(|calls| calls.len())
    }

    /// Returns `true` if nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records `item`.
    pub fn add(&self, item: T) {
        self.with(|calls| calls.push((item, Instant::now())));
    }

    /// Records `item` and returns how often it has been recorded, including this time.
    pub fn attempt(&self, item: T) -> usize
    where
        T: PartialEq,
    {
        self.with(|calls| {
            let earlier = calls.iter().filter(|(other, _)| *other == item).count();
            calls.push((item, Instant::now()));
            earlier + 1
        })
    }

    /// Returns a handler that records its message and succeeds.
    pub fn handler(&self) -> impl Fn(T) -> Ready<()> + Send + Sync + 'static + use<T>
    where
        T: Send + 'static,
    {
        let recorder = self.clone();
        move |item| {
            recorder.add(item);
            ready(())
        }
    }

    /// Returns the items in the order in which they were recorded.
    pub fn items(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.with(|calls| calls.iter().map(|(item, _)| item.clone()).collect())
    }

    /// Returns the items without repetitions.
    pub fn distinct(&self) -> BTreeSet<T>
    where
        T: Clone + Ord,
    {
        self.with(|calls| calls.iter().map(|(item, _)| item.clone()).collect())
    }

    /// Returns how often each item was recorded.
    pub fn counts(&self) -> BTreeMap<T, usize>
    where
        T: Clone + Ord,
    {
        let mut counts = BTreeMap::new();
        self.items().into_iter().for_each(|item| *counts.entry(item).or_default() += 1);
        counts
    }

    /// Returns how often `item` was recorded.
    pub fn count<Q>(&self, item: Q) -> usize
    where
        T: PartialEq<Q>,
    {
        self.times(item).len()
    }

    /// Returns the times at which `item` was recorded.
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts are passed alike")]
    pub fn times<Q>(&self, item: Q) -> Vec<Instant>
    where
        T: PartialEq<Q>,
    {
        self.with(|calls| calls.iter().filter(|(other, _)| *other == item).map(|(_, time)| *time).collect())
    }

    /// Waits until `item` has been recorded.
    #[track_caller]
    pub fn until<Q>(&self, item: Q) -> impl Future<Output = ()> + use<'_, T, Q>
    where
        T: PartialEq<Q> + Debug,
        Q: Debug,
    {
        self.until_times(item, 1)
    }

    /// Waits until `item` has been recorded this many times.
    #[track_caller]
    pub fn until_times<Q>(&self, item: Q, count: usize) -> impl Future<Output = ()> + use<'_, T, Q>
    where
        T: PartialEq<Q> + Debug,
        Q: Debug,
    {
        self.wait(format!("{count} times {item:?}"), move |calls| {
            calls.iter().filter(|(other, _)| *other == item).count() >= count
        })
    }

    /// Waits until this many items have been recorded, repetitions included.
    #[track_caller]
    pub fn until_len(&self, count: usize) -> impl Future<Output = ()> + use<'_, T>
    where
        T: Debug,
    {
        self.wait(format!("{count} items"), move |calls| calls.len() >= count)
    }

    /// Waits until this many different items have been recorded.
    #[track_caller]
    pub fn until_distinct(&self, count: usize) -> impl Future<Output = ()> + use<'_, T>
    where
        T: Debug + Ord,
    {
        self.wait(format!("{count} different items"), move |calls| {
            calls.iter().map(|(item, _)| item).collect::<BTreeSet<_>>().len() >= count
        })
    }

    #[track_caller]
    fn wait<F>(&self, what: String, mut is_reached: F) -> impl Future<Output = ()> + use<'_, T, F>
    where
        F: FnMut(&[(T, Instant)]) -> bool,
    {
        let caller = std::panic::Location::caller();
        async move {
            let what = format!("{what}, awaited at {caller}");
            eventually(&what, SOON, || ready(self.with(|calls| is_reached(calls)).then_some(()))).await;
        }
    }
}

impl<T: Debug> Debug for Recorder<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.with(|calls| f.debug_list().entries(calls.iter().map(|(item, _)| item)).finish())
    }
}

impl<T> Clone for Recorder<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Recorder<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Returns the counts of a [`Recorder`] that recorded each item once.
pub fn once_each<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    items.into_iter().map(|item| (item, 1)).collect()
}

/// Returns the items without repetitions, in the order of their first occurrence.
pub fn without_repetitions<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    let mut known = BTreeSet::new();
    items.iter().filter(|item| known.insert((*item).clone())).cloned().collect()
}
