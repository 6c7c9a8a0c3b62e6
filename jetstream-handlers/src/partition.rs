//! The partitions of keys, by the hash of the server, and the names of what they have on it.

/// Returns the partition of a key, from 0 to `partitions - 1`: the same number that the server computes for
/// `{{partition(12,1)}}` in a subject transform, if the key is the first wildcard.
///
/// So publishers in any language, and streams with a subject transform, agree about the partition of a key.
/// [`Event`](trait@crate::Event) with `partitions` calls this function.
/// A number of 0 counts as 1.
///
/// It is the 32-bit FNV-1a hash of the key, modulo the number (`server/subject_transform.go`, `getHashPartition`).
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{PublishMessage, partition, prelude::*};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// # let broker = Broker::in_memory();
/// // For a message that is no event.
/// let customer = "acme";
/// let subject = format!("orders.{}.paid", partition(customer, 12));
/// assert_eq!(subject, "orders.7.paid");
/// broker.publish(&subject, &customer).await?;
/// # Ok(()) }
/// ```
pub fn partition(key: impl AsRef<[u8]>, partitions: u32) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let hash = key.as_ref().iter().fold(OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME));
    hash % partitions.max(1)
}

/// The first token of the subjects in a derived stream, before the number of the partition.
pub(crate) const DERIVED: &str = "partition";

/// Returns the name of the stream that the server derives from another one for a handler with this `queue`.
pub(crate) fn derived_stream(origin: &str, queue: &str) -> String {
    format!("{origin}-{queue}")
}

/// Returns the name of the consumer of one partition.
pub(crate) fn consumer_of_partition(queue: &str, number: u32) -> String {
    format!("{queue}-{number}")
}

/// Returns the `queue` of the handler of which a consumer with this name is one partition; `None` for any other name.
pub(crate) fn queue_of_partition(consumer: &str) -> Option<&str> {
    let (queue, number) = consumer.rsplit_once('-')?;
    number.parse::<u32>().is_ok().then_some(queue)
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

    #[test]
    fn hash_is_that_of_the_specification() {
        for (key, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(partition(key, u32::MAX), hash);
        }
        assert_eq!((partition("foobar", 1), partition("foobar", 0)), (0, 0));
    }
}
