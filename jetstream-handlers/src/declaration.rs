//! The declaration of a handler, and those of its partitions.

use std::borrow::Cow;

use crate::partition::{DERIVED, consumer_of_partition};
use crate::plan::{Deliver, Plan, Subjects};

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
    /// The member of a group whose partitions the handler receives.
    pub(crate) member: Option<MemberOf>,
    /// The subjects of the events that the handler returns, with wildcards in place of placeholders; a start finds them
    /// out from the return type.
    pub(crate) events: Vec<String>,
}

/// One of the partitions of a handler, each of which has a consumer.
#[derive(Debug, Clone)]
pub(crate) struct PartitionOf {
    pub(crate) number: u32,
    /// The settings of the whole handler: its `queue` begins the names of the consumers.
    pub(crate) whole: Box<Plan>,
}

/// A member of a group, with the partitions that it has.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "pcgroups"), allow(dead_code, reason = "only the feature has members"))]
pub(crate) struct MemberOf {
    /// The name of the member, which is that of its consumer.
    pub(crate) name: String,
    /// The stream of the group.
    pub(crate) stream: String,
    /// The subjects of its partitions in that stream.
    pub(crate) filters: Vec<String>,
}

/// Returns `true` if a text names a handler: its full path, the end of that path, or its queue.
pub(crate) fn is_named(name: &str, queue: &str, text: &str) -> bool {
    let path = name.strip_suffix(text);
    queue == text || path.is_some_and(|path| path.is_empty() || path.ends_with("::"))
}

impl Declaration {
    /// Returns the declaration of a function with these settings.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str, plan: Plan) -> Self {
        Self {
            name: name.to_owned(),
            is_closure: false,
            location: "app.rs:1:1".to_owned(),
            description: "",
            plan,
            partition: None,
            member: None,
            events: Vec::new(),
        }
    }

    /// Returns the subjects of the handler as they were declared.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.whole_plan().subject
    }

    /// Returns the subjects of the messages with which the handler is called: those of its consumer, or of the origin of a
    /// derived stream.
    pub(crate) fn received(&self) -> &Subjects {
        if self.is_derived() { self.subjects() } else { &self.plan.subject }
    }

    /// Returns `true` if the handler reads a stream that the server derives from another one, to add the number of the
    /// partition.
    pub(crate) fn is_derived(&self) -> bool {
        self.member.is_some() || self.partition.as_ref().is_some_and(|of| of.whole.is_derived())
    }

    /// Returns the `queue` of the handler, which is the name of its consumer, or the beginning of it if it has several.
    pub(crate) fn queue(&self) -> &str {
        &self.whole_plan().queue
    }

    /// Returns `true` if this is the only declaration of the handler, or that of its first partition.
    pub(crate) fn is_first(&self) -> bool {
        self.partition.as_ref().is_none_or(|of| of.number == 0)
    }

    /// Returns the settings of the whole handler, of which this may be one partition.
    pub(crate) fn whole_plan(&self) -> &Plan {
        self.partition.as_ref().map_or(&self.plan, |of| &of.whole)
    }

    /// Returns the declaration of the whole handler, of which this may be one partition.
    pub(crate) fn whole(&self) -> Self {
        let mut whole = self.clone();
        if let Some(of) = whole.partition.take() {
            whole.plan = *of.whole;
        }
        whole
    }

    /// Returns the declarations of the consumers of a handler: one for each partition, or itself.
    pub(crate) fn consumers(&self) -> Vec<Self> {
        if let Some(member) = self.member.as_ref().filter(|_| self.partition.is_none()) {
            let mut declaration = self.clone();
            let whole = Box::new(declaration.plan.clone());
            let plan = &mut declaration.plan;
            plan.subject = Subjects::from(member.filters.clone());
            (plan.queue, plan.stream) = (member.name.clone().into(), Some(member.stream.clone().into()));
            declaration.partition = Some(PartitionOf { number: 0, whole });
            return vec![declaration];
        }
        let Some(count) = self.plan.partitions.filter(|_| self.partition.is_none()) else { return vec![self.clone()] };
        let of_partition = |number| {
            let mut declaration = self.clone();
            let whole = Box::new(declaration.plan.clone());
            let Plan { queue, subject, deliver, .. } = &mut declaration.plan;
            if whole.is_derived() {
                *subject = Subjects::from(format!("{DERIVED}.{number}"));
                // It decides where the copy begins, and is not needed for the stream with the copies.
                *deliver = Deliver::All;
            } else {
                *subject = subject.in_partition(number);
            }
            *queue = Cow::Owned(consumer_of_partition(queue, number));
            declaration.partition = Some(PartitionOf { number, whole });
            declaration
        };
        (0..count).map(of_partition).collect()
    }

    /// Returns `true` if both declare the same function; two in different function bodies may have the same name.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.location == other.location
    }
}
