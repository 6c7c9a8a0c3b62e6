// The expansion of:
//
// #[subscriber(subject = "orders..created", queue = "order-processor")]
// pub fn process_order(order: OrderCreated) {}

pub fn process_order(order: OrderCreated) {}
::core::compile_error! {
    "subject `orders..created` has an empty token; put a token on both sides of every `.`"
}
::core::compile_error! {
    "handler `process_order` is not async; write `async fn process_order`, or add `blocking` if it computes or blocks"
}
/// Names the handler `process_order` for `Broker::include`.
pub struct process_order {}
impl ::jetstream_handlers::__private::Subscriber for process_order {
    fn registration() -> &'static ::jetstream_handlers::__private::Registration {
        ::core::unreachable!()
    }
}
