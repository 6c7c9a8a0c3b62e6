//! The declaration of a handler, and those of its partitions.

use std::borrow::Cow;

use crate::plan::{Plan, Subjects};

/// The declaration of a handler: its name, its source location, and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    /// The full path of the function, or the name of the closure.
    pub(crate) name: String,
    pub(crate) is_closure: bool,
    /// File, line and column of the declaration.
    pub(crate) location: String,
    /// The documentation of the function; empty without one, and of a closure.
    pub(crate) description: &'static str,
    pub(crate) plan: Plan,
    /// The partition of a declaration that stands for one of several; `None` for a handler as it was declared.
    pub(crate) partition: Option<PartitionOf>,
    /// The subjects of the events that the handler returns, with wildcards in place of placeholders; a start finds them
    /// out from the return type.
    pub(crate) events: Vec<String>,
}

/// One of the partitions of a handler, each of which has a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionOf {
    pub(crate) number: u32,
    /// The subjects of the handler, with the placeholder of the number.
    pub(crate) subject: Subjects,
    /// The `queue` of the handler, which begins the names of its consumers.
    pub(crate) queue: Cow<'static, str>,
}

/// Returns `true` if a text names a handler: its full path, the end of that path, or its queue.
pub(crate) fn is_named(name: &str, queue: &str, text: &str) -> bool {
    let path = name.strip_suffix(text);
    queue == text || path.is_some_and(|path| path.is_empty() || path.ends_with("::"))
}

/// Returns the name of the consumer of one partition.
fn consumer_of_partition(queue: &str, number: u32) -> String {
    format!("{queue}-{number}")
}

/// Returns the `queue` of the handler of which a consumer with this name is one partition; `None` for any other name.
pub(crate) fn queue_of_partition(consumer: &str) -> Option<&str> {
    let (queue, number) = consumer.rsplit_once('-')?;
    number.parse::<u32>().is_ok().then_some(queue)
}

impl Declaration {
    /// Returns the subjects of the handler as they were declared.
    pub(crate) fn subjects(&self) -> &Subjects {
        self.partition.as_ref().map_or(&self.plan.subject, |of| &of.subject)
    }

    /// Returns the `queue` of the handler, which is the name of its consumer, or the beginning of it if it has several.
    pub(crate) fn queue(&self) -> &str {
        self.partition.as_ref().map_or(&*self.plan.queue, |of| &*of.queue)
    }

    /// Returns `true` if this is the only declaration of the handler, or that of its first partition.
    pub(crate) fn is_first(&self) -> bool {
        self.partition.as_ref().is_none_or(|of| of.number == 0)
    }

    /// Returns the declaration of the whole handler, of which this may be one partition.
    pub(crate) fn whole(&self) -> Self {
        let mut whole = self.clone();
        if let Some(PartitionOf { subject, queue, .. }) = whole.partition.take() {
            (whole.plan.subject, whole.plan.queue) = (subject, queue);
        }
        whole
    }

    /// Returns the declarations of the consumers of a handler: one for each partition, or itself.
    pub(crate) fn consumers(&self) -> Vec<Self> {
        let Some(count) = self.plan.partitions.filter(|_| self.partition.is_none()) else { return vec![self.clone()] };
        let of_partition = |number| {
            let mut declaration = self.clone();
            let Plan { queue, subject, .. } = &mut declaration.plan;
            let of = PartitionOf { number, subject: subject.clone(), queue: queue.clone() };
            *subject = subject.in_partition(number);
            *queue = Cow::Owned(consumer_of_partition(queue, number));
            declaration.partition = Some(of);
            declaration
        };
        (0..count).map(of_partition).collect()
    }

    /// Returns `true` if both declare the same function; two in different function bodies may have the same name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.location == other.location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumer_of_a_partition_names_the_queue() {
        assert_eq!(queue_of_partition(&consumer_of_partition("order-billing", 11)), Some("order-billing"));
        for name in ["billing", "order-billing", "billing-", "billing--", "billing-4294967296"] {
            assert_eq!(queue_of_partition(name), None, "{name}");
        }
    }
}
