// What the attribute makes of:
//
// #[subscriber(subject = "orders.created", queue = "order-processor")]
// async fn process_order(order: OrderCreated) -> HandlerResult {
//     println!("processing order {} for {}", order.id, order.customer);
//     Ok(())
// }

async fn process_order(order: OrderCreated) -> HandlerResult {
    println!("processing order {} for {}", order.id, order.customer);
    Ok(())
}
/// Names the handler `process_order` for `Broker::include`.
struct process_order {}
#[allow(deprecated)]
const _: () = {
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "process_order"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        plan: ::jetstream_handlers::__private::StaticPlan {
            subject: "orders.created",
            queue: "order-processor",
            stream: ::core::option::Option::None,
            concurrency: ::core::option::Option::None,
            blocking: false,
            threads: ::core::option::Option::None,
            batch_size: ::core::option::Option::None,
            ack_wait: ::core::option::Option::None,
            timeout: ::core::option::Option::None,
            max_deliver: ::core::option::Option::None,
            backoff: ::core::option::Option::None,
            dead_letter: ::core::option::Option::None,
            key: ::core::option::Option::None,
            ordered: false,
            ack_every: ::core::option::Option::None,
            replicas: ::core::option::Option::None,
            publish: ::core::option::Option::None,
            codec: ::core::option::Option::None,
            ack: ::jetstream_handlers::__private::Ack::Sent,
            group: ::core::option::Option::None,
        },
        call: |slot, message, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(message),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    OrderCreated,
                    _,
                >(&message, &context) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<
                    HandlerResult,
                >(process_order(argument0).await)
            });
        },
        check: |context, problems| {
            ::jetstream_handlers::__private::check::<OrderCreated, _>(context, problems);
        },
    };
    impl ::jetstream_handlers::__private::Subscriber for process_order {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
