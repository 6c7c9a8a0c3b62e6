// The expansion of:
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
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "process_order"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            ..::jetstream_handlers::__private::Plan::new(
                "orders.created",
                "order-processor",
            )
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    OrderCreated,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<OrderCreated>::NEW)
                        .__jetstream_handlers_via(),
                ) {
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
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                OrderCreated,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<OrderCreated>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, OrderCreated);
            let _ = body;
            ::jetstream_handlers::__private::declare::<HandlerResult>(problems);
        },
        layer: ::core::option::Option::None,
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
